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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from twinstep.overlap import Intervals, overlap_s
from twinstep.spans import Floats, Groups, Ints, Kind, Mask, Span, SpanTable, groups_of, sums
from twinstep.timeline import COMPUTE_LANE, SAMPLES_LANE, Timeline, kind_of_group

_HOP = re.compile("hop=([0-9]+>[0-9]+)")
_WAITS = "exposed_communication"
_COMMUNICATES = ("communication", _WAITS)


class LinkUse(NamedTuple):
    """One direction of a link (both, where it is half-duplex), over all that is simulated, warm-up included."""

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
    cores_busy_share: float
    """How busy the cores of the machine were that emulates all hosts, as a fraction, while links carried something."""


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
    spans = timeline.table.chosen(timeline.table.step >= timeline.warmup_steps)
    groups = groups_of(spans.rank, spans.step)
    rank = spans.rank[groups.first].tolist()
    weight = np.array([timeline.mean_rank_s({each: 1.0}) for each in rank])
    steps, position = np.unique(spans.step[groups.first], return_inverse=True)
    waiting = spans.has(lambda kind: kind.phase == _WAITS)

    def per_step_s(by_group_s: Floats) -> float:
        by_step_s = sums(position, weight * by_group_s, len(steps))
        return statistics.median(timeline.by_period(by_step_s.tolist()))

    return Communication(
        exposed_s=per_step_s(groups.sums(spans.durations_s, waiting)),
        hidden_s=per_step_s(_hidden_s(spans, groups)),
        collectives=tuple(_collectives(timeline, group_sizes)),
        links=links,
        repartition=repartition(timeline),
        groups=tuple(_group_times(spans, groups, per_step_s)),
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
        if span.phase == _WAITS:
            found = by_operation.get(_awaited_operation(span.operation), ())
            yield span, min(found, key=lambda each: abs(each.end_s - span.end_s), default=None)


def _group_times(spans: SpanTable, groups: Groups, per_step_s: Callable[[Floats], float]) -> list[GroupTime]:
    """Attribute exposed and hidden times to kinds of groups; `groups` are the spans of one rank in one step."""
    names = sorted({kind_of_group(kind.group) for kind in spans.kinds} | {""})
    computing, awaited = _intervals(spans, groups, spans.has(_computes)), _awaited(spans, groups, names)
    communicating = spans.has(_communicates)
    of_group = spans.numbers(lambda kind: kind_of_group(kind.group) if kind.group else "")
    found = []
    for number, name in enumerate(names):
        own = communicating & (of_group == number)
        exposed_s = per_step_s(groups.sums(spans.durations_s, awaited == number))
        hidden_s = per_step_s(overlap_s(computing, _intervals(spans, groups, own), groups.size))
        if exposed_s > 0 or (name and own.any()):
            found.append(GroupTime(name, exposed_s, hidden_s))
    return sorted(found, key=lambda each: (-each.exposed_s, -each.hidden_s, each.group))


def _awaited(spans: SpanTable, groups: Groups, names: Sequence[str]) -> Ints:
    """Give for each wait the number of the kind of group that it is for, and -1 for other spans.

    Where several kinds have communications of one name, it is the one whose communication ends when the wait ends.
    """
    kinds: dict[str, set[int]] = defaultdict(set)
    for kind in filter(_communicates, spans.kinds):
        kinds[kind.operation].add(names.index(kind_of_group(kind.group)))
    waits_for = [_awaited_operation(kind.operation) if kind.phase == _WAITS else None for kind in spans.kinds]
    nobody = {names.index("")}
    candidates = [{-1} if operation is None else kinds.get(operation, nobody) for operation in waits_for]
    found: Ints = np.array([min(each) for each in candidates], dtype=np.int64)[spans.kind]
    unclear = np.array([len(each) > 1 for each in candidates], dtype=bool)[spans.kind]
    operations = spans.numbers(lambda kind: _awaited_operation(kind.operation))
    communicating = spans.has(_communicates)
    own: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place in np.flatnonzero(communicating & np.isin(operations, operations[unclear])).tolist():
        own[int(groups.number[place]), int(operations[place])].append(place)
    for place in np.flatnonzero(unclear).tolist():
        places = np.array(own.get((int(groups.number[place]), int(operations[place])), [place]))
        nearest = places[np.abs(spans.end_s[places] - spans.end_s[place]).argmin()]
        found[place] = names.index(kind_of_group(spans.kinds[spans.kind[nearest]].group))
    return found


def _awaited_operation(wait: str) -> str:
    return wait.removeprefix("wait[").removesuffix("]") if wait.startswith("wait[") else wait


def _communicates(kind: Kind) -> bool:
    return kind.phase == "communication"


def _computes(kind: Kind) -> bool:
    return kind.lane == COMPUTE_LANE and kind.phase not in _COMMUNICATES


def _intervals(spans: SpanTable, groups: Groups, which: Mask) -> Intervals:
    return Intervals(groups.number[which], spans.start_s[which], spans.end_s[which])


def repartition(timeline: Timeline) -> Repartition | None:
    """Sum up how workers exchanged samples; None where they did not."""
    spans = timeline.table.chosen(timeline.table.has(lambda kind: kind.lane == SAMPLES_LANE))
    if not spans:
        return None
    sent = [span.size_bytes for span in spans if span.operation.startswith("send ")]
    time_s = max(span.end_s for span in spans) - min(span.start_s for span in spans)
    return Repartition(len(sent), sum(sent), time_s)


def _hidden_s(spans: SpanTable, groups: Groups) -> Floats:
    """Give the seconds in which a rank computes while it communicates, for each group of spans that are of one rank."""
    computing, communicating = (_intervals(spans, groups, spans.has(each)) for each in (_computes, _communicates))
    return overlap_s(computing, communicating, groups.size)


def _collectives(timeline: Timeline, group_sizes: Mapping[str, int]) -> Iterable[CollectiveUse]:
    found = timeline.meetings
    order = np.argsort(found.exchange, kind="stable")
    begins = np.searchsorted(found.exchange[order], np.arange(1 + len(found.exchanges)))
    by_exchange = [found.time_s[order[begin:end]].tolist() for begin, end in pairwise(begins.tolist())]
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    names: dict[tuple[str, str, int], dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for (operation, group, size_bytes), times_s in zip(found.exchanges, by_exchange, strict=True):
        if not times_s:  # of the warm-up alone
            continue
        use = (operation.partition("[")[0], kind_of_group(group), size_bytes)
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
