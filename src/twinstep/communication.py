"""Communication of a run, from its timeline: what was hidden, what was exposed, and how fast it was.

*Exposed* is the time in which a rank waits for communication; *hidden* that in which it computes while something of its
own is under way, from the rank's call to the end. *Algorithm bandwidth* is S/t, the bytes of a rank's whole buffer
over the time from the last rank's call to the last end. *Bus bandwidth* multiplies it by the bytes that a rank's link
must carry at the least for each byte of the buffer, without reduction in the network, so that it can be held against
the link:

    all_reduce 2 (n - 1)/n      all_gather, reduce_scatter, all_to_all, gather, scatter (n - 1)/n      others 1

By *kind of group*: a wait belongs to the group of what is waited for, so exposed times of all kinds add up to the whole
in every step. What is hidden of several kinds at once counts for each of them, so these may add up to more.

Source: nccl-tests, doc/PERFORMANCE.md.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twinstep.timeline import COMPUTE_LANE, SAMPLES_LANE, Span, Timeline, kind_of_group

_HOP = re.compile("hop=([0-9]+>[0-9]+)")
_STAGE = re.compile(" of stage [0-9]+$")
"""In the names of messages between chunks: all of them are of one kind."""


class LinkUse(NamedTuple):
    """One direction of a link (both together, where it is half-duplex), over a whole run, warm-up included."""

    source: str
    target: str
    size_bytes: float
    """Bytes that crossed it, headers included where the library has them."""
    utilisation: float
    """These bytes as a fraction of what it could have carried from the beginning of the run to its end."""
    queueing_s: float
    """Integral over time of what wanted to cross beyond the bandwidth, in bandwidths: what all that waited lost."""


class LinkCount(NamedTuple):
    """What the kernel counted on one direction of an emulated link, over a whole run, warm-up included."""

    source: str
    target: str
    size_bytes: int
    """Bytes that crossed it, headers and acknowledgements included."""
    utilisation: float
    """These bytes as a fraction of what it could have carried meanwhile."""
    course: tuple[float, ...]
    """The same fraction from each reading of the counters to the next."""


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """The counters of an emulated cluster."""

    times_s: tuple[float, ...]
    """When they were read, from the first reading on."""
    links: tuple[LinkCount, ...]


class CollectiveUse(NamedTuple):
    """All communications of one kind, group and size, over the measured steps."""

    kind: str
    group: str
    ranks: int
    """In each group."""
    size_bytes: int
    """Of a rank's whole buffer."""
    per_step: int
    """In each group, or between two ranks; where groups differ, in the one with the most."""
    time_s: float
    """Median of the time from the last rank's call to the last end."""

    @property
    def algorithm_bandwidth_bytes_per_s(self) -> float | None:
        """Size over time; None for what took no time."""
        return self.size_bytes / self.time_s if self.time_s > 0 else None

    @property
    def bus_bandwidth_bytes_per_s(self) -> float | None:
        """Algorithm bandwidth times what a link must carry for each byte.

        >>> use = CollectiveUse("all_reduce", "data", ranks=4, size_bytes=1000, per_step=1, time_s=1.0)
        >>> use.bus_bandwidth_bytes_per_s
        1500.0
        """
        rate = self.algorithm_bandwidth_bytes_per_s
        return None if rate is None else rate * _bus_factor(self.kind, self.ranks)


class Repartition(NamedTuple):
    """The samples that workers exchanged in the first step of the warm-up."""

    messages: int
    size_bytes: int
    """Of all messages together."""
    time_s: float
    """From the first worker's first call to the last end."""


class GroupTime(NamedTuple):
    """The communication of all groups of a kind; seconds a step are medians over the steps of means over the ranks."""

    group: str
    """The kind, e.g. `tensor`; empty for waits for what no group communicates."""
    exposed_s: float
    hidden_s: float


@dataclass(frozen=True, slots=True)
class Communication:
    """The communication of a run; seconds a step are medians over the steps of means over the ranks."""

    exposed_s: float
    hidden_s: float
    collectives: tuple[CollectiveUse, ...]
    links: tuple[LinkUse, ...]
    """Those that carried anything; empty where nobody counted."""
    repartition: Repartition | None = None
    """None where no samples were exchanged."""
    groups: tuple[GroupTime, ...] = ()
    """What is exposed most comes first."""


def communication(timeline: Timeline, group_sizes: Mapping[str, int], links: tuple[LinkUse, ...] = ()) -> Communication:
    """Sum a timeline's communication up; `group_sizes` are the ranks of each group, by its kind."""
    exposed, hidden = defaultdict[int, float](float), defaultdict[int, float](float)
    for (rank, step), spans in _by_rank_and_step(timeline).items():
        weight = timeline.mean_rank_s({rank: 1.0})
        exposed[step] += weight * sum([span.duration_s for span in spans if span.phase == "exposed_communication"])
        hidden[step] += weight * hidden_s(spans)
    return Communication(
        exposed_s=statistics.median(timeline.by_period([exposed[step] for step in sorted(exposed)])),
        hidden_s=statistics.median(timeline.by_period([hidden[step] for step in sorted(hidden)])),
        collectives=tuple(_collectives(timeline, group_sizes)),
        links=links,
        repartition=repartition(timeline),
        groups=tuple(_group_times(timeline)),
    )


def waits(spans: Sequence[Span]) -> Iterator[tuple[Span, Span | None]]:
    """Give each wait of one rank in one step with the communication that it waits for; None where that is not known.

    Of several of one name it is the one that ends when the wait ends.
    """
    by_operation: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.phase == "communication":
            by_operation[span.operation].append(span)
    for span in spans:
        if span.phase == "exposed_communication":
            found = by_operation.get(span.operation.removeprefix("wait[").removesuffix("]"), ())
            yield span, min(found, key=lambda each: abs(each.end_s - span.end_s), default=None)


def _group_times(timeline: Timeline) -> list[GroupTime]:
    """Attribute exposed and hidden times to kinds of groups."""
    exposed: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    hidden: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    kinds = {span.group: kind_of_group(span.group) for span in timeline.spans}
    for (rank, step), spans in _by_rank_and_step(timeline).items():
        weight = timeline.mean_rank_s({rank: 1.0})
        for wait, awaited in waits(spans):
            exposed[kinds[awaited.group] if awaited else ""][step] += weight * wait.duration_s
        computing = _computing(spans)
        for kind, times in _communicating(spans, kinds).items():
            hidden[kind][step] += weight * _overlap_s(computing, times)
    steps = sorted(timeline.steps())

    def median_s(by_step: Mapping[int, float]) -> float:
        return statistics.median(timeline.by_period([by_step.get(step, 0.0) for step in steps]))

    found = [GroupTime(kind, median_s(exposed[kind]), median_s(hidden[kind])) for kind in {*exposed, *hidden}]
    known = [each for each in found if each.group or each.exposed_s > 0]
    return sorted(known, key=lambda each: (-each.exposed_s, -each.hidden_s, each.group))


def repartition(timeline: Timeline) -> Repartition | None:
    """Sum up how workers exchanged samples; None where they did not."""
    spans = [span for span in timeline.spans if span.lane == SAMPLES_LANE]
    if not spans:
        return None
    sent = [span.size_bytes for span in spans if span.operation.startswith("send ")]
    time_s = max(span.end_s for span in spans) - min(span.start_s for span in spans)
    return Repartition(len(sent), sum(sent), time_s)


def hidden_s(spans: Iterable[Span]) -> float:
    """Give the seconds in which a rank computes while any of its communications is under way."""
    listed = list(spans)
    everything = [each for times in _communicating(listed, {}).values() for each in times]
    return _overlap_s(_computing(listed), everything)


_Times = list[tuple[float, float]]
"""Beginnings and ends, in seconds."""


def _computing(spans: Iterable[Span]) -> _Times:
    """Give when a rank computes, in order."""
    return sorted(
        (start_s, end_s)
        for _, _, lane, _, phase, start_s, end_s, _, _ in spans
        if lane == COMPUTE_LANE and phase != "exposed_communication"
    )


def _communicating(spans: Iterable[Span], kinds: Mapping[str, str]) -> Mapping[str, _Times]:
    """Give when communications of a rank are under way, by the kind of their group."""
    times: dict[str, _Times] = defaultdict(list)
    for _, _, _, _, phase, start_s, end_s, _, group in spans:
        if phase == "communication":
            times[kinds.get(group, "")].append((start_s, end_s))
    return times


def _overlap_s(computing: _Times, communicating: _Times) -> float:
    """Give the seconds that both have in common; what computes does so one after another."""
    total_s, busy = 0.0, _merged(communicating)
    first = 0
    for start_s, end_s in computing:
        while first < len(busy) and busy[first][1] <= start_s:
            first += 1
        for busy_start_s, busy_end_s in busy[first:]:
            if busy_start_s >= end_s:
                break
            total_s += min(end_s, busy_end_s) - max(start_s, busy_start_s)
    return total_s


def _merged(intervals: _Times) -> _Times:
    """Join intervals that overlap."""
    merged: _Times = []
    for start_s, end_s in sorted(intervals):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    return merged


def _by_rank_and_step(timeline: Timeline) -> Mapping[tuple[int, int], list[Span]]:
    found: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for span in timeline.spans:
        if span.step >= timeline.warmup_steps:
            found[span.rank, span.step].append(span)
    return found


def _collectives(timeline: Timeline, group_sizes: Mapping[str, int]) -> Iterable[CollectiveUse]:
    by_operation: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for (operation, group, _, size_bytes), time_s in timeline.meetings_s().items():
        by_operation[operation, group, size_bytes].append(time_s)
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    names: dict[tuple[str, str, int], dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for (operation, group, size_bytes), times_s in by_operation.items():
        use = (_STAGE.sub("", operation.partition("[")[0]), kind_of_group(group), size_bytes)
        times[use] += times_s
        names[use][group, *_HOP.findall(operation)].add(operation)
    for (kind, group, size_bytes), times_s in sorted(times.items()):
        ranks = 2 if kind.startswith("send ") else group_sizes[group]
        per_step = max(map(len, names[kind, group, size_bytes].values()))
        yield CollectiveUse(kind, group, ranks, size_bytes, per_step, statistics.median(times_s))


def _bus_factor(kind: str, ranks: int) -> float:
    if kind == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if kind in ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"):
        return (ranks - 1) / ranks
    return 1.0
