"""Span and Timeline: the one record that the simulator and the executor both return.

A span is one operation on one lane of one rank. The compute lane of a rank holds its compute operations and its
waits one after another, so within a step they and the gaps between them add up to the step; each communication lane
holds the collectives, from the moment the rank issues them to their completion.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np

from twinstep.meeting_table import MeetingTable, meetings
from twinstep.spans import Computation, Floats, Kind, Mask, Phase, Span, SpanTable, groups_of, sums

__all__ = [
    "COMPUTE_LANE",
    "OTHER",
    "SAMPLES_LANE",
    "STEP_LANE",
    "CollectiveKind",
    "Computation",
    "Observation",
    "Phase",
    "Span",
    "Timeline",
    "Twins",
    "interquartile_range",
    "kind_of_group",
]

CollectiveKind = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "gather", "scatter", "barrier"
]
"""The collectives of torch.distributed, but for variants of the same."""

COMPUTE_LANE = "compute"
STEP_LANE = "step"
SAMPLES_LANE = "samples"
"""The lane of the messages by which workers exchange samples before the first step."""
OTHER = "other"
"""The part of a step in which the compute lane holds no span: dispatch by the host."""


class Observation(NamedTuple):
    """A value that a rank's program has recorded, from either back end."""

    rank: int
    step: int
    time_s: float
    """On the axis of the spans."""
    name: str
    """What the value is, e.g. `loss`."""
    value: float


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

    spans: Sequence[Span]
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
    of_steps: int = 0
    """How many steps, warm-up included, the run has that this is the beginning of; 0 where it is the whole run."""
    period: int = 1
    """Steps after which programs repeat: statistics of steps are of the means of whole periods."""

    @property
    def twins(self) -> tuple[Twins, ...]:
        """Give for each rank with spans whom it stands for."""
        return self.folds or tuple(Twins(rank, (rank,)) for rank in range(self.ranks) if rank not in self.lost)

    @cached_property
    def table(self) -> SpanTable:
        """Give the spans by column."""
        return SpanTable.of(self.spans)

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

    @property
    def total_steps(self) -> int:
        """Count the steps, warm-up included."""
        return self.warmup_steps + len(self.steps())

    @cached_property
    def _measured_steps(self) -> SpanTable:
        """Give the steps after the warm-up of all ranks."""
        return self.table.chosen(self.table.has(_is_step) & (self.table.step >= self.warmup_steps))

    @cached_property
    def worker_steps(self) -> SpanTable:
        """Give the steps after the warm-up of the ranks that are not reactive."""
        return self._measured_steps.chosen(~np.isin(self._measured_steps.rank, self.reactive))

    def steps(self) -> Mapping[int, Mapping[int, float]]:
        """Give, for each step after the warm-up, each rank's step time in seconds."""
        return self._steps

    @cached_property
    def _steps(self) -> Mapping[int, Mapping[int, float]]:
        """Most statistics begin with these."""
        times: dict[int, dict[int, float]] = defaultdict(dict)
        steps = self._measured_steps
        columns = (steps.rank, steps.step, steps.durations_s)
        for rank, step, time_s in zip(*(column.tolist() for column in columns), strict=True):
            times[step][rank] = time_s
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
        steps = sorted(self.steps())
        spans = self.table.chosen(np.isin(self.table.step, steps))
        computing, whole = (spans.has(is_meant) for is_meant in (_is_on_compute_lane, _is_step))
        weights = np.array([self._weights.get(rank, 0.0) for rank in range(self.ranks)])
        share_s = spans.durations_s * weights[spans.rank]
        position = np.searchsorted(steps, spans.step)

        def by_step(which: Mask, signed_s: Floats) -> list[float]:
            times_s: list[float] = sums(position[which], signed_s[which], len(steps)).tolist()
            return times_s

        found: dict[str, list[float]] = {}
        for name in {kind.phase for kind in spans.kinds if _is_on_compute_lane(kind)}:
            of_phase = computing & spans.has(partial(_is_of, name))
            if of_phase.any():
                found[name] = by_step(of_phase, share_s)
        if len(spans):
            found[OTHER] = by_step(computing | whole, np.where(computing, -share_s, share_s))
        return {name: self.by_period(times_s) for name, times_s in sorted(found.items())}

    def phases_s(self) -> dict[str, float]:
        """Give each phase's seconds a step: the median over the steps of the mean over the ranks."""
        return {phase: statistics.median(by_step) for phase, by_step in self.phases_by_step_s().items()}

    def collectives_by_step_s(self) -> dict[str, list[float]]:
        """Give each collective's seconds, a list over the steps: from a group's last issue to its last end.

        Where several groups do it, the slowest of them counts.
        """
        found = self.meetings
        names = sorted({exchange.operation for exchange in found.exchanges})
        numbers = {name: number for number, name in enumerate(names)}
        operation = np.array([numbers[exchange.operation] for exchange in found.exchanges], dtype=int)[found.exchange]
        groups = groups_of(operation, found.step)
        slowest_s = np.zeros(groups.size)
        np.maximum.at(slowest_s, groups.number, found.time_s)
        durations: dict[str, list[float]] = defaultdict(list)
        for number, time_s in zip(operation[groups.first].tolist(), slowest_s.tolist(), strict=True):
            durations[names[number]].append(time_s)
        return dict(sorted(durations.items()))

    @cached_property
    def meetings(self) -> MeetingTable:
        """Give each communication after the warm-up."""
        return meetings(self.table, self.warmup_steps)

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


def _is_on_compute_lane(kind: Kind) -> bool:
    return kind.lane == COMPUTE_LANE


def _is_of(phase: Phase, kind: Kind) -> bool:
    return kind.phase == phase


def _is_step(kind: Kind) -> bool:
    return _is_of("step", kind)


def interquartile_range(values: list[float]) -> float:
    """Give the distance between the quartiles; 0 for fewer than two values.

    >>> interquartile_range([1.0, 2.0, 3.0, 4.0, 5.0])
    2.0
    """
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
