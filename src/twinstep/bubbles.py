"""Bubbles: for how much of a step the ranks of a pipeline have nothing to compute, and the passes in between.

A rank is in a *bubble* while it waits for another stage: from the beginning of its wait for a message of its pipeline
to the end of that wait, and, where first and last stage sum the gradient of the tied embedding, until the last of the
two has joined. So the time in which a message travels counts, as nothing is computed meanwhile; the time of that sum
itself does not, nor do waits for tensor-, context- or data-parallel ranks: they are exposed communication.

    rank 0   F0 F1 ..... B0 .. B1 O     dots: waits for gradients, a bubble of both gaps
    rank 1   .. F0 B0 F1 B1 O           waits for activations; its step begins with its own optimizer's end

Each rank's step counts from its own beginning to its own end, so in a steady pipeline all steps are equally long.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twinstep.communication import waits
from twinstep.spans import Span
from twinstep.timeline import COMPUTE_LANE, Timeline, kind_of_group

PASSES = ("forward", "backward", "weight_gradients")
"""The phases of which passes of microbatches consist."""
_PIPELINE, _EMBEDDING = "pipeline", "embedding"
_WAIT = "exposed_communication"
_COORDINATE = re.compile(r"[\[,](layer|microbatch|pass)=([0-9a-z_]+)")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The ranks that pass microbatches on to one another, from the first stage to the last rank."""

    ranks: tuple[int, ...]
    first_layers: tuple[tuple[int, ...], ...]
    """For each of them, the number of the layer with which each of its chunks begins."""


@dataclass(frozen=True, slots=True)
class Bubbles:
    """The bubbles of one pipeline."""

    by_rank: Mapping[int, float]
    """For each rank the fraction of its step, the median over the measured steps."""
    closed_form: float | None
    """That of any rank by the schedule alone: equal stages, no time for communication. None where there is none."""

    @property
    def mean(self) -> float:
        """The mean over the ranks."""
        return statistics.fmean(self.by_rank.values())


class Gap(NamedTuple):
    """A part of a rank's bubble."""

    rank: int
    start_s: float
    end_s: float
    operation: str
    """What the rank waits for, e.g. `recv activations[hop=0>1,microbatch=0]`."""


class Pass(NamedTuple):
    """One microbatch through one chunk, one way: computations, and waits for ranks of the same stage in between.

    Sharded parameters that it waits for at its beginning are part of it, and sums at its end.
    """

    rank: int
    phase: str
    microbatch: int
    chunk: int
    start_s: float
    end_s: float
    computed_s: float
    """Without what the rank waits for in between."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


class RankStep(NamedTuple):
    """What a rank of a pipeline did in one step."""

    rank: int
    step: int
    spans: list[Span]


def rank_steps(timeline: Timeline, pipeline: Pipeline) -> list[RankStep]:
    """Give what each rank of a pipeline that lived did in each step after the warm-up, by rank, then by step."""
    owner = _owners(timeline)
    standing_for: dict[int, list[int]] = defaultdict(list)
    for rank in pipeline.ranks:
        if rank in owner:
            standing_for[owner[rank]].append(rank)
    table = timeline.table
    found: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for span in table.chosen(np.isin(table.rank, list(standing_for)) & (table.step >= timeline.warmup_steps)):
        for rank in standing_for[span.rank]:
            found[rank, span.step].append(span)
    return [RankStep(*place, spans) for place, spans in sorted(found.items())]


def bubble_shares(timeline: Timeline, pipeline: Pipeline) -> Mapping[int, list[float]]:
    """Give for each rank of a pipeline that lived its bubble as a fraction of its step, a list over measured steps."""
    idle_s: dict[tuple[int, int], float] = defaultdict(float)
    for step, gaps in gaps_by_step(timeline, pipeline).items():
        for gap in gaps:
            idle_s[gap.rank, step] += gap.end_s - gap.start_s
    owner = _owners(timeline)
    return {
        rank: [idle_s[rank, step] / times[owner[rank]] for step, times in sorted(timeline.steps().items())]
        for rank in pipeline.ranks
        if rank in owner
    }


def gaps_by_step(timeline: Timeline, pipeline: Pipeline) -> Mapping[int, list[Gap]]:
    """Give the bubbles of each step after the warm-up."""
    lived = rank_steps(timeline, pipeline)
    joined = _last_joined(lived)
    found: dict[int, list[Gap]] = defaultdict(list)
    for rank, step, spans in lived:
        for wait, awaited in waits(spans):
            end_s = _idle_until(wait, awaited, joined.get((awaited.operation, step), 0.0)) if awaited else 0.0
            if awaited and end_s > wait.start_s:
                found[step].append(Gap(rank, wait.start_s, end_s, awaited.operation))
    return found


def _idle_until(wait: Span, awaited: Span, joined_s: float) -> float:
    """Give the end of the part of a wait that is a bubble; 0 where none is."""
    kind = kind_of_group(awaited.group)
    if kind == _EMBEDDING:
        return min(wait.end_s, joined_s)
    return wait.end_s if kind == _PIPELINE else 0.0


def passes(lived: RankStep, pipeline: Pipeline) -> list[Pass]:
    """Give the passes of a rank in a step, by start."""
    first_layers = pipeline.first_layers[pipeline.ranks.index(lived.rank)]
    found: list[Pass] = []
    leading: tuple[_Place, float] | None = None
    for span in lived.spans:
        at = _place(span, first_layers)
        if at is None:
            continue
        is_wait = span.phase == _WAIT
        if found and _continues(found[-1], at):
            computed_s = found[-1].computed_s + (0.0 if is_wait else span.duration_s)
            found[-1] = found[-1]._replace(end_s=span.end_s, computed_s=computed_s)
        elif is_wait:
            if at.chunk is None and (leading is None or leading[0] != at):
                leading = at, span.start_s
            continue
        else:
            start_s = leading[1] if leading and leading[0] == at._replace(chunk=None) else span.start_s
            where = (lived.rank, span.phase, at.microbatch, at.chunk or 0)
            found.append(Pass(*where, start_s, span.end_s, span.duration_s))
        leading = None
    return found


def _continues(last: Pass, at: _Place) -> bool:
    return (at.microbatch, at.chunk) == (last.microbatch, last.chunk) and at.phase in ("", last.phase)


def mean_pass_s(lived: Iterable[RankStep], pipeline: Pipeline) -> Mapping[str, float]:
    """Give the mean time of a pass by phase, in seconds, of all stages but the first, whose halves are not apart."""
    first_rank = pipeline.ranks[0]
    times_s: dict[str, list[float]] = defaultdict(list)
    for each in (each for rank_step in lived for each in passes(rank_step, pipeline)):
        if (each.rank, each.chunk) != (first_rank, 0):
            times_s[each.phase].append(each.duration_s)
    return {phase: statistics.fmean(times_s[phase]) if times_s[phase] else 0.0 for phase in PASSES}


class _Place(NamedTuple):
    """To which pass a span belongs."""

    phase: str
    """Empty for waits for messages that do not say which."""
    microbatch: int
    chunk: int | None
    """None for waits for parameters, which are gathered for several layers."""


def _place(span: Span, first_layers: tuple[int, ...]) -> _Place | None:
    """Place a computation, or a wait for what a pass needs; None of what is in no pass."""
    if span.lane != COMPUTE_LANE:
        return None
    named = dict(_COORDINATE.findall(span.operation))
    phase = named.get("pass", "") if span.phase == _WAIT else span.phase
    if "microbatch" not in named or phase not in ("", *PASSES) or not (phase or "layer" in named):
        return None
    layer = named.get("layer")
    chunk = None if layer is None else sum(1 for first in first_layers[1:] if int(layer) >= first)
    return _Place(phase, int(named["microbatch"]), chunk)


def _owners(timeline: Timeline) -> Mapping[int, int]:
    """Give for each rank that lived the one that has its spans."""
    return {rank: twins.representative for twins in timeline.twins for rank in twins.ranks}


def _last_joined(lived: Iterable[RankStep]) -> Mapping[tuple[str, int], float]:
    """Give for each sum of the tied embedding and step when the last rank of the pipeline joined it."""
    joined: dict[tuple[str, int], float] = {}
    for _, step, spans in lived:
        for span in spans:
            if span.phase == "communication" and kind_of_group(span.group) == _EMBEDDING:
                key = (span.operation, step)
                joined[key] = max(joined.get(key, span.start_s), span.start_s)
    return joined
