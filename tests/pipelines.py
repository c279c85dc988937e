"""Pipelines for tests: partitions of every schedule, and ranks that execute their slots."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from twinstep.degrees import INTERLEAVED, V_SHAPED, misfits
from twinstep.partition import Partition
from twinstep.programs.schedules import Slot, slots, stage_of
from twinstep.workloads import Gpt

ALL = ("gpipe", "one_forward_one_backward", "zero_bubble", *INTERLEAVED, *V_SHAPED)
PIPELINES = range(2, 9)
MODEL = Gpt(kind="gpt", layers=64, heads=2, width=8, context=4, batch=1)


def partition(schedule: str, pipeline: int, microbatches: int, chunks: int = 1) -> Partition:
    return Partition.model_validate(
        {"schedule": schedule, "pipeline": pipeline, "microbatches": microbatches, "chunks": chunks}
    )


def refusals(asked: Partition) -> list[str]:
    return list(misfits(asked, MODEL))


def chunks_of(schedule: str) -> tuple[int, ...]:
    return (2, 3) if schedule in INTERLEAVED else (2,) if schedule in V_SHAPED else (1,)


def allowed(schedule: str, pipelines: Sequence[int], microbatches: Sequence[int]) -> list[Partition]:
    """Give every partition that the plan's validator lets pass."""
    product = itertools.product(pipelines, microbatches, chunks_of(schedule))
    found = [partition(schedule, *degrees) for degrees in product]
    return [each for each in found if not refusals(each)]


class Durations(NamedTuple):
    """How long a chunk's passes take; a whole backward pass is both halves."""

    forward: int = 1
    inputs: int = 1
    weights: int = 1

    def of(self, slot: Slot) -> int:
        return {"F": self[0], "I": self[1], "W": self[2], "B": self[1] + self[2]}[slot.direction]


EVEN = Durations()


class Result(NamedTuple):
    """What others wait for: activations of a stage, or gradients of its inputs."""

    kind: str
    stage: int
    microbatch: int


def needs(slot: Slot, stage: int, stages: int) -> set[Result]:
    """Name what a pass waits for."""
    if slot.direction == "W":
        return {Result("gradients", stage, slot.microbatch)}
    if slot.direction == "F":
        return {Result("activations", stage - 1, slot.microbatch)} if stage else set()
    own, after = Result("activations", stage, slot.microbatch), Result("gradients", stage + 1, slot.microbatch)
    return {own, after} if stage + 1 < stages else {own}


def gives(slot: Slot, stage: int) -> list[Result]:
    """Name what a pass gives to others, or to its own W."""
    kinds = {"F": "activations", "B": "gradients", "I": "gradients"}
    return [Result(kinds[slot.direction], stage, slot.microbatch)] if slot.direction in kinds else []


class Execution(NamedTuple):
    begins: list[float]
    ends: list[float]
    work: int

    @property
    def bubble(self) -> float:
        """How much longer the step takes than a rank's work."""
        return max(self.ends) - self.work

    @property
    def idle(self) -> float:
        """How long a rank waits at most between its first pass and its last."""
        return max(end - begin for begin, end in zip(self.begins, self.ends, strict=True)) - self.work


class Pipeline:
    """Ranks that execute their slots and talk in no time; with `hold_back` a pair's results leave together."""

    def __init__(self, asked: Partition, durations: Durations, hold_back: bool) -> None:
        self.asked, self.durations, self.hold_back = asked, durations, hold_back
        self.waiting = [slots(asked, rank) for rank in range(asked.pipeline)]
        self.begins: dict[int, float] = {}
        self.free: list[float] = [0] * asked.pipeline
        self.computed: list[list[Result]] = [[] for _ in self.free]
        self.ready: dict[Result, float] = {}

    def duration(self, slot: Slot, stage: int) -> float:
        """Give what a slot of a stage takes: here all stages take the same."""
        del stage
        return self.durations.of(slot)

    def advance(self, rank: int) -> bool:
        """Execute a rank's next slot, if all that it needs is there."""
        if not self.waiting[rank]:
            return False
        slot = self.waiting[rank][0]
        stage = stage_of(self.asked, rank, slot.chunk)
        wanted = needs(slot, stage, self.asked.pipeline * self.asked.chunks)
        if not wanted <= self.ready.keys():
            return False
        begin = max([self.free[rank], *(self.ready[each] for each in wanted)])
        self.begins.setdefault(rank, begin)
        self.free[rank] = begin + self.duration(self.waiting[rank].pop(0), stage)
        self.computed[rank] += gives(slot, stage)
        if not (slot.with_next and self.hold_back):
            self.ready |= dict.fromkeys(self.computed[rank], self.free[rank])
            self.computed[rank].clear()
        return True


def execute(asked: Partition, durations: Durations = EVEN, *, hold_back: bool = False) -> Execution:
    """Execute a step until no rank can go on."""
    pipeline = Pipeline(asked, durations, hold_back)
    ranks = range(asked.pipeline)
    work = sum(map(durations.of, pipeline.waiting[0]))
    while sum(map(pipeline.advance, ranks)):
        pass
    assert not any(pipeline.waiting), f"a deadlock before {pipeline.waiting}"
    return Execution([pipeline.begins[rank] for rank in ranks], pipeline.free, work)
