"""Progress: how fast a run's workers go on, how old their gradients are, and how the loss falls with time.

All of it follows from a timeline: steps from the spans of workers, who are all ranks that are not reactive, staleness
and losses from what programs have observed. The warm-up counts for the loss alone, since learning begins with it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twinstep.timeline import Timeline

_LEAST_S = 1e-12
WHOLE_LOSS = "whole_loss"
"""The loss of a worker's parameters on all samples, those of other workers included."""


class LossAt(NamedTuple):
    """The loss at a time."""

    time_s: float
    """From the beginning of the run."""
    loss: float
    """The mean over workers of what each of them has observed last."""


class Spread(NamedTuple):
    """What chance makes of a plan in which whoever comes first goes on first: many simulations of it."""

    worker_steps_per_s: tuple[float, ...]
    """Of each simulation, by size."""
    staleness: Mapping[int, float]
    """The distribution over all of them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a timeline says of its workers' progress."""

    worker_steps_per_s: float
    """Steps of all workers a second: where nobody waits, updates."""
    staleness: Mapping[int, float]
    """For each number of updates that a gradient did not know, the part of all gradients; empty where none counts."""
    loss_by_step: tuple[float, ...]
    """The mean over workers, one a step, warm-up included; empty where nothing is observed."""
    loss_by_time: tuple[LossAt, ...]
    """From the moment on when every worker has observed one."""
    whole_loss_by_time: tuple[LossAt, ...] = ()
    """The loss on all samples, where workers have samples of their own: with the first worker's parameters."""
    rates_by_chance: tuple[float, ...] = ()
    """Steps of all workers a second in every simulation of an ensemble, by size; empty where there is none."""

    @property
    def mean_staleness(self) -> float | None:
        """Give the mean number of updates that a gradient did not know; None where none counts."""
        return sum(value * share for value, share in self.staleness.items()) if self.staleness else None

    def time_to_loss_s(self, target: float) -> float | None:
        """Give when the loss was first at most `target`; None where it never was."""
        return next((at.time_s for at in self.loss_by_time if at.loss <= target), None)

    @property
    def least_loss(self) -> float:
        """The least loss that was reached; infinite where nothing is observed."""
        return min((at.loss for at in self.loss_by_time), default=float("inf"))


def progress(timeline: Timeline, spread: Spread | None = None) -> Progress:
    """Read the progress of a timeline; with the `spread` of its ensemble, the staleness of all."""
    return Progress(
        worker_steps_per_s=_steps_per_s(timeline),
        staleness=spread.staleness if spread else _staleness(timeline),
        loss_by_step=_loss_by_step(timeline),
        loss_by_time=_loss_by_time(timeline),
        whole_loss_by_time=tuple(
            LossAt(each.time_s, each.value) for each in timeline.observations if each.name == WHOLE_LOSS
        ),
        rates_by_chance=spread.worker_steps_per_s if spread else (),
    )


def staleness_distance(one: Progress, other: Progress) -> float:
    """Give the total-variation distance of two distributions of staleness: 0 for equal ones, 1 for disjoint ones."""
    values = {*one.staleness, *other.staleness}
    return sum(abs(one.staleness.get(value, 0.0) - other.staleness.get(value, 0.0)) for value in values) / 2


def pooled_staleness(runs: Sequence[Progress]) -> Mapping[int, float]:
    """Give the distribution of staleness over several runs, each of which counts as much."""
    values = sorted({value for run in runs for value in run.staleness})
    return {value: sum(run.staleness.get(value, 0.0) for run in runs) / len(runs) for value in values}


def rate_error(predicted: Progress, measured: Progress) -> float | None:
    """Give the signed error of the steps of all workers a second; None where one side's took no time."""
    rates = predicted.worker_steps_per_s, measured.worker_steps_per_s
    return rates[0] / rates[1] - 1 if all(map(math.isfinite, rates)) else None


def time_to_loss_error(predicted: Progress, measured: Progress) -> float | None:
    """Give the signed error of the time to the least loss that both reach; None where one of them reaches none."""
    target = common_target(predicted, measured)
    if target is None:
        return None
    times_s = predicted.time_to_loss_s(target), measured.time_to_loss_s(target)
    return times_s[0] / times_s[1] - 1 if times_s[0] is not None and times_s[1] else None


def common_target(one: Progress, other: Progress) -> float | None:
    """Give the least loss that both reach; None where one of them observes none."""
    target = max(one.least_loss, other.least_loss)
    return target if target < float("inf") else None


def _steps_per_s(timeline: Timeline) -> float:
    weights = {twins.representative: len(twins.ranks) for twins in timeline.twins}
    steps = timeline.worker_steps
    counts = np.array([float(weights[rank]) for rank in steps.rank.tolist()])
    begin_s, end_s = float(steps.start_s.min()), float(steps.end_s.max())
    if timeline.of_steps:
        begin_s, end_s = _together_s(timeline)
        within_s = np.minimum(steps.end_s, end_s) - np.maximum(steps.start_s, begin_s)
        counts *= np.clip(within_s / np.maximum(steps.durations_s, _LEAST_S), 0.0, 1.0)
    return float(counts.sum()) / (end_s - begin_s) if end_s > begin_s else float("inf")


def _together_s(timeline: Timeline) -> tuple[float, float]:
    """Give when the last worker begins its first measured step, and when the first ends its last one."""
    steps = timeline.worker_steps
    own = [steps.rank == rank for rank in np.unique(steps.rank)]
    return max(float(steps.start_s[each].min()) for each in own), min(float(steps.end_s[each].max()) for each in own)


def _staleness(timeline: Timeline) -> Mapping[int, float]:
    end_s = _together_s(timeline)[1] if timeline.of_steps else float("inf")
    found = Counter(
        int(each.value)
        for each in timeline.observations
        if each.name == "staleness" and each.step >= timeline.warmup_steps and each.time_s <= end_s
    )
    return {value: count / found.total() for value, count in sorted(found.items())}


def _loss_by_step(timeline: Timeline) -> tuple[float, ...]:
    by_step: dict[int, list[float]] = {}
    for each in timeline.observations:
        if each.name == "loss":
            by_step.setdefault(each.step, []).append(each.value)
    return tuple(statistics.fmean(losses) for _, losses in sorted(by_step.items()))


def _loss_by_time(timeline: Timeline) -> tuple[LossAt, ...]:
    losses = [each for each in timeline.observations if each.name == "loss"]
    workers = len({each.rank for each in losses})
    latest: dict[int, float] = {}
    found = []
    for each in losses:
        latest[each.rank] = each.value
        if len(latest) == workers:
            found.append(LossAt(each.time_s, statistics.fmean(latest.values())))
    return tuple(found)
