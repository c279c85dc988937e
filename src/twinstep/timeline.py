"""Span and Timeline: the one record that the simulator and the executor both return.

A span is one operation on one lane of one rank. The compute lane of a rank holds its compute operations and its
waits one after another, so within a step they and the gaps between them add up to the step; each communication lane
holds the collectives, from the moment the rank issues them to their completion.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

CollectiveKind = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "gather", "scatter", "barrier"
]
"""The collectives of torch.distributed, but for variants of the same."""

Computation = Literal["read", "load", "forward", "backward", "weight_gradients", "encode", "decode", "optimizer"]
"""What a device computes; `read` is of parameters from shared memory, `encode` and `decode` are of compressed
gradients."""
Phase = Computation | Literal["exposed_communication", "communication", "step"]

COMPUTE_LANE = "compute"
STEP_LANE = "step"
SAMPLES_LANE = "samples"
"""The lane of the messages by which workers exchange samples before the first step."""
OTHER = "other"
"""The part of a step in which the compute lane holds no span: dispatch by the host."""


class Span(NamedTuple):
    """One operation of one rank, from either back end.

    Times are in seconds on an axis that all ranks of the run share; its origin is the release of the first step.
    """

    rank: int
    step: int
    """Steps count from 0, warm-up steps included."""
    lane: str
    """`compute`, `step`, or the name of a communication lane."""
    operation: str
    """What is done, with its coordinates, e.g. `backward[layer=3]`; with rank and step, the key of the span."""
    phase: Phase
    start_s: float
    end_s: float
    size_bytes: int = 0
    """The payload of a communication on this rank; 0 for compute."""
    group: str = ""
    """The group that communicates, e.g. `data`."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


class Observation(NamedTuple):
    """A value that a rank's program has recorded, from either back end."""

    rank: int
    step: int
    time_s: float
    """On the axis of the spans."""
    name: str
    """What the value is, e.g. `loss`."""
    value: float


class Meeting(NamedTuple):
    """One communication of one group in one step; sender and receiver of a message meet under the sender's name."""

    operation: str
    group: str
    step: int
    size_bytes: int


class Twins(NamedTuple):
    """Ranks that live through the same times, of which one was simulated."""

    representative: int
    ranks: tuple[int, ...]
    """All of them, the representative included."""


@dataclass(frozen=True)
class Timeline:
    """All spans of a run, by rank, then by start.

    `warmup_steps` at the beginning are kept for the picture and left out of every statistic. A folded timeline has
    the spans of representatives alone; statistics count each as often as it has twins.
    """

    spans: tuple[Span, ...]
    ranks: int
    warmup_steps: int
    folds: tuple[Twins, ...] = ()
    """Who stands for whom; empty where every rank has its own spans."""
    observations: tuple[Observation, ...] = ()
    """By time."""
    reactive: tuple[int, ...] = ()
    """Ranks that take what comes first: what falls in which of their steps is a matter of chance."""
    lost: tuple[int, ...] = ()
    """Ranks that died: there is nothing of theirs."""
    period: int = 1
    """Steps after which programs repeat: statistics of steps are of the means of whole periods."""

    @property
    def twins(self) -> tuple[Twins, ...]:
        """Give for each rank with spans whom it stands for."""
        return self.folds or tuple(Twins(rank, (rank,)) for rank in range(self.ranks) if rank not in self.lost)

    @cached_property
    def _weights(self) -> Mapping[int, float]:
        living = self.ranks - len(self.lost)
        return {twins.representative: len(twins.ranks) / living for twins in self.twins}

    def mean_rank_s(self, by_rank: Mapping[int, float]) -> float:
        """Give the mean over all ranks of seconds a rank, of which only representatives are given."""
        return sum(self._weights[rank] * time_s for rank, time_s in by_rank.items())

    def unfolded(self, name_of: Callable[[str, int], str]) -> Timeline:
        """Give every rank the spans of its representative, in a group of its own by `name_of(group, rank)`."""
        by_rank: dict[int, list[Span]] = defaultdict(list)
        for span in self.spans:
            by_rank[span.rank].append(span)
        owner = {rank: twins.representative for twins in self.twins for rank in twins.ranks}
        spans = (
            span._replace(rank=rank, group=name_of(span.group, rank) if span.group else "")
            for rank in range(self.ranks)
            if rank in owner
            for span in by_rank[owner[rank]]
        )
        return replace(self, spans=tuple(spans), folds=())

    def steps(self) -> Mapping[int, Mapping[int, float]]:
        """Give, for each step after the warm-up, each rank's step time in seconds."""
        return self._steps

    @cached_property
    def _steps(self) -> Mapping[int, Mapping[int, float]]:
        """Most statistics begin with these."""
        times: dict[int, dict[int, float]] = defaultdict(dict)
        for span in self.spans:
            if span.phase == "step" and span.step >= self.warmup_steps:
                times[span.step][span.rank] = span.duration_s
        return dict(times)

    def step_times_s(self) -> list[float]:
        """Give the time of each step after the warm-up, that of its slowest rank; of periods, the mean of its steps."""
        return self.by_period([max(by_rank.values()) for by_rank in self.steps().values()])

    def by_period(self, by_step: Sequence[float]) -> list[float]:
        """Give the mean of each whole period of consecutive steps, or that of all where they are fewer."""
        length = min(self.period, len(by_step))
        return [statistics.fmean(by_step[i : i + length]) for i in range(0, len(by_step) - length + 1, max(1, length))]

    def step_time_s(self) -> float:
        """Give the median over the measured steps of the slowest rank's time."""
        return statistics.median(self.step_times_s())

    def step_time_iqr_s(self) -> float:
        """Give the interquartile range of the step times (0 for fewer than two steps)."""
        return interquartile_range(self.step_times_s())

    def phases_by_step_s(self) -> Mapping[str, list[float]]:
        """Give each phase's seconds, a list over the measured steps or periods, each the mean over the ranks.

        In every single step the phases, `other` included, add up to the mean rank's step time.
        """
        return self._phases_by_step_s

    @cached_property
    def _phases_by_step_s(self) -> Mapping[str, list[float]]:
        """The summary and the tables need these."""
        position = {step: index for index, step in enumerate(sorted(self.steps()))}
        phases: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(position))
        for rank, step, lane, _, phase, start_s, end_s, _, _ in self.spans:
            if step not in position:
                continue
            if lane == COMPUTE_LANE:
                share_s = (end_s - start_s) * self._weights[rank]
                phases[phase][position[step]] += share_s
                phases[OTHER][position[step]] -= share_s
            elif phase == "step":
                phases[OTHER][position[step]] += (end_s - start_s) * self._weights[rank]
        return {phase: self.by_period(by_step) for phase, by_step in sorted(phases.items())}

    def phases_s(self) -> dict[str, float]:
        """Give each phase's seconds a step: the median over the steps of the mean over the ranks."""
        return {phase: statistics.median(by_step) for phase, by_step in self.phases_by_step_s().items()}

    def collectives_by_step_s(self) -> dict[str, list[float]]:
        """Give each collective's seconds, a list over the steps: from a group's last issue to its last end.

        Where several groups do it, the slowest of them counts.
        """
        slowest: dict[tuple[str, int], float] = defaultdict(float)
        for meeting, time_s in self.meetings_s().items():
            key = (meeting.operation, meeting.step)
            slowest[key] = max(slowest[key], time_s)
        durations: dict[str, list[float]] = defaultdict(list)
        for (operation, _), time_s in slowest.items():
            durations[operation].append(time_s)
        return dict(sorted(durations.items()))

    def meetings_s(self) -> Mapping[Meeting, float]:
        """Give each communication's seconds after the warm-up, from the last rank's issue to the last end.

        The n-th message that is received on a channel is the n-th that was sent, and belongs to the sender's step.
        """
        return self._meetings_s

    @cached_property
    def _meetings_s(self) -> Mapping[Meeting, float]:
        """The summary and the tables need these."""
        last: dict[Meeting, tuple[float, float]] = {}
        for operation, step, span in _met(self.spans):
            if step >= self.warmup_steps:
                meeting = Meeting(operation, span.group, step, span.size_bytes)
                start_s, end_s = last.get(meeting, (span.start_s, span.end_s))
                last[meeting] = max(start_s, span.start_s), max(end_s, span.end_s)
        return {meeting: end_s - start_s for meeting, (start_s, end_s) in last.items()}

    def ranks_by_step_s(self) -> dict[int, list[float]]:
        """Give each rank's step times in seconds, a list over the measured steps."""
        by_rank: dict[int, list[float]] = defaultdict(list)
        for times in self.steps().values():
            for rank, time_s in times.items():
                by_rank[rank].append(time_s)
        return {rank: self.by_period(times_s) for rank, times_s in sorted(by_rank.items())}

    def representative_step(self) -> int:
        """Give the step after the warm-up whose time is nearest to the median; the first of several."""
        median = self.step_time_s()
        times = {step: max(by_rank.values()) for step, by_rank in self.steps().items()}
        return min(times, key=lambda step: (abs(times[step] - median), step))


def kind_of_group(name: str) -> str:
    """Give the kind of a group from its name, which has a number where there are several.

    >>> kind_of_group("tensor 12"), kind_of_group("data")
    ('tensor', 'data')
    """
    return re.sub(" [0-9]+$", "", name)


def _met(spans: Sequence[Span]) -> Iterator[tuple[str, int, Span]]:
    """Give each communication with its operation and step, which for a receive are those of its send."""
    communications = [span for span in spans if span.phase == "communication"]
    steps: dict[tuple[str, str], list[int]] = defaultdict(list)
    for span in communications:
        if span.operation.startswith("send "):
            steps[span.operation, span.group].append(span.step)
    sent = {channel: iter(by_turn) for channel, by_turn in steps.items()}
    nothing: Iterator[int] = iter(())
    for span in communications:
        operation, step = span.operation, span.step
        if operation.startswith("recv "):
            operation = f"send {operation.removeprefix('recv ')}"
            step = next(sent.get((operation, span.group), nothing), step)
        yield operation, step, span


def interquartile_range(values: list[float]) -> float:
    """Give the distance between the quartiles; 0 for fewer than two values.

    >>> interquartile_range([1.0, 2.0, 3.0, 4.0, 5.0])
    2.0
    """
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
