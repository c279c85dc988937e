"""Pipeline schedules: their closed forms, what they hold, and torch's own order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple
from unittest import mock

import pytest
import torch
from torch.distributed.pipelining import PipelineStage, schedules

from twinstep.degrees import INTERLEAVED, V_SHAPED, misfits
from twinstep.partition import Partition
from twinstep.programs.schedules import (
    Slot,
    gpipe,
    most_held,
    most_in_flight,
    one_forward_one_backward,
    place_of,
    slots,
    stage_of,
    zero_bubble,
)
from twinstep.workloads import Gpt

SINGLE = ("gpipe", "one_forward_one_backward", "zero_bubble")
ALL = SINGLE + INTERLEAVED + V_SHAPED
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


class Execution(NamedTuple):
    begins: list[int]
    ends: list[int]
    work: int

    @property
    def bubble(self) -> int:
        """How much longer the step takes than a rank's work."""
        return max(self.ends) - self.work

    @property
    def idle(self) -> int:
        """How long a rank waits at most between its first pass and its last."""
        return max(end - begin for begin, end in zip(self.begins, self.ends, strict=True)) - self.work


Result = tuple[Literal["activations", "gradients"], int, int]


def needs(slot: Slot, stage: int, stages: int) -> list[Result]:
    """Name what a pass waits for: a kind of result, the stage that computes it, the microbatch."""
    activations, gradients = [("activations", stage, slot.microbatch)], [("gradients", stage + 1, slot.microbatch)]
    if slot.direction == "F":
        return [("activations", stage - 1, slot.microbatch)] if stage else []
    if slot.direction == "W":
        return [("gradients", stage, slot.microbatch)]
    return activations + (gradients if stage + 1 < stages else [])  # type: ignore[return-value]


def gives(slot: Slot, stage: int) -> list[Result]:
    kinds = {"F": "activations", "B": "gradients", "I": "gradients"}
    return [(kinds[slot.direction], stage, slot.microbatch)] if slot.direction in kinds else []  # type: ignore[list-item]


def execute(asked: Partition, durations: Durations = EVEN, hold_back: bool = False) -> Execution:
    """Run a schedule's slots on ranks that talk in no time; with `hold_back` a pair's results leave together."""
    ranks, stages = range(asked.pipeline), asked.pipeline * asked.chunks
    waiting = {rank: slots(asked, rank) for rank in ranks}
    work = sum(map(durations.of, waiting[0]))
    begins, free, held = [-1 for _ in ranks], [0 for _ in ranks], dict[int, list[Result]]()
    ready: dict[Result, int] = {}
    while any(waiting.values()):
        before = len(ready), sum(map(len, waiting.values()))
        for rank, order in waiting.items():
            while order:
                stage = stage_of(asked, rank, order[0].chunk)
                wanted = needs(order[0], stage, stages)
                if not set(wanted) <= set(ready):
                    break
                slot = order.pop(0)
                begin = max([free[rank], *(ready[each] for each in wanted)])
                begins[rank] = begin if begins[rank] < 0 else begins[rank]
                free[rank] = begin + durations.of(slot)
                results = held.pop(rank, []) + gives(slot, stage)
                if slot.with_next and hold_back:
                    held[rank] = results
                else:
                    ready |= dict.fromkeys(results, free[rank])
        assert before != (len(ready), sum(map(len, waiting.values()))), f"deadlock: {waiting}"
    return Execution(begins, free, work)


@pytest.mark.parametrize("schedule", ALL)
def test_every_pass_has_one_slot_and_no_rank_waits_for_ever(schedule: str) -> None:
    for asked in allowed(schedule, (1, 2, 3, 4, 7), range(1, 18)):
        for rank in range(asked.pipeline):
            found = slots(asked, rank)
            pairs = set(itertools.product(range(asked.microbatches), range(asked.chunks)))
            of = {way: [slot[1:3] for slot in found if slot.direction == way] for way in "FBIW"}
            assert sorted(of["F"]) == sorted(of["B"] + of["I"]) == sorted(pairs)
            assert sorted(of["I"]) == sorted(of["W"])
        assert execute(asked).work == 3 * asked.microbatches * asked.chunks


@pytest.mark.parametrize("schedule", ALL)
def test_every_stage_has_its_place(schedule: str) -> None:
    for asked in allowed(schedule, (1, 2, 5), (10,)):
        places = [place_of(asked, stage) for stage in range(asked.pipeline * asked.chunks)]
        assert sorted(places) == sorted(itertools.product(range(asked.pipeline), range(asked.chunks)))
        assert [stage_of(asked, place.rank, place.chunk) for place in places] == list(range(len(places)))


def test_stages_lie_in_loops_or_in_a_v() -> None:
    loops, to_and_fro = partition(INTERLEAVED[0], 3, 6, 2), partition("zero_bubble_v", 3, 6, 2)
    assert [place_of(loops, stage).rank for stage in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [place_of(to_and_fro, stage).rank for stage in range(6)] == [0, 1, 2, 2, 1, 0]


UNEVEN = [EVEN, Durations(10, 10, 7), Durations(10, 13, 8), Durations(8, 4, 4), Durations(3, 5, 4)]
# Gradients of inputs take no longer than a forward pass, those of weights no longer than either.
FALLING = [EVEN, Durations(10, 10, 7), Durations(10, 8, 6), Durations(8, 4, 4)]
SIZES = [1, 3, 4, 8, 10, 16, 24]


@pytest.mark.parametrize("durations", UNEVEN)
@pytest.mark.parametrize("schedule", ["gpipe", "one_forward_one_backward"])
def test_gpipe_and_1f1b_wait_for_p_minus_1_passes(schedule: str, durations: Durations) -> None:
    for asked in allowed(schedule, PIPELINES, SIZES):
        ran = execute(asked, durations)
        assert ran.bubble == (asked.pipeline - 1) * sum(durations)
        ranks, microbatches = asked.pipeline, asked.microbatches
        assert ran.bubble * (microbatches + ranks - 1) == max(ran.ends) * (ranks - 1)


@pytest.mark.parametrize("durations", UNEVEN)
def test_chunks_shorten_the_bubble(durations: Durations) -> None:
    for asked in allowed("interleaved_one_forward_one_backward", PIPELINES, SIZES):
        ranks, microbatches, chunks = asked.pipeline, asked.microbatches, asked.chunks
        missing = max(0, ranks - microbatches)
        ran = execute(asked, durations)
        assert ran.bubble == (ranks - 1 + (chunks - 1) * missing) * sum(durations)
        if not missing:
            assert ran.bubble * (chunks * microbatches + ranks - 1) == max(ran.ends) * (ranks - 1)


@pytest.mark.parametrize("durations", UNEVEN)
@pytest.mark.parametrize("schedule", ["zero_bubble", "interleaved_zero_bubble"])
def test_gradients_of_weights_fill_the_bubble(schedule: str, durations: Durations) -> None:
    forward, inputs, weights = durations
    for asked in allowed(schedule, PIPELINES, SIZES):
        if asked.microbatches >= asked.pipeline:
            ran = execute(asked, durations)
            assert ran.idle == (asked.pipeline - 1) * (inputs + max(0, forward - weights))
            assert ran.bubble == (asked.pipeline - 1) * max(forward, inputs, forward + inputs - weights)


def test_a_v_of_even_passes_idles_before_and_after_alone() -> None:
    for asked in allowed("zero_bubble_v", PIPELINES, SIZES):
        if asked.microbatches >= 2 * asked.pipeline - 1:
            ran = execute(asked)
            assert (ran.idle, ran.bubble) == (0, asked.pipeline - 1)


@pytest.mark.parametrize("durations", FALLING)
def test_a_halved_dual_pipe_idles_for_the_formula(durations: Durations) -> None:
    forward, inputs, weights = durations
    for asked in allowed("dual_pipe_v", PIPELINES, SIZES):
        ranks = asked.pipeline
        assert execute(asked, durations).bubble == (ranks - 1) * (forward + inputs - weights)
        together = execute(asked, durations, hold_back=True).bubble
        assert together == (ranks - 1) * (2 * forward + inputs - weights)
        if forward == inputs:
            backward = inputs + weights
            assert together == (ranks - 1) * ((forward + backward) + backward - 3 * weights)


@pytest.mark.parametrize("schedule", ALL)
def test_ranks_hold_as_many_activations_as_the_formula_says(schedule: str) -> None:
    for asked in allowed(schedule, PIPELINES, SIZES):
        ranks, microbatches, chunks = asked.pipeline, asked.microbatches, asked.chunks
        per_round = microbatches // max(1, microbatches // ranks)
        if microbatches < 2 * ranks:
            continue
        for rank in range(ranks):
            most = {
                "gpipe": microbatches,
                "one_forward_one_backward": ranks - rank,
                "zero_bubble": ranks,
                "interleaved_one_forward_one_backward": (chunks - 1) * per_round + 2 * (ranks - 1 - rank) + 1,
                "interleaved_zero_bubble": (chunks - 1) * per_round + ranks,
                "zero_bubble_v": 2 * ranks,
                "dual_pipe_v": 2 * ranks + 1,
            }[schedule]
            assert most_in_flight(slots(asked, rank)) == most


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 1), (4, 2), (8, 8), (3, 20)])
def test_zero_bubble_holds_no_more_than_1f1b(stages: int, microbatches: int) -> None:
    held = [most_in_flight(zero_bubble(stage, stages, microbatches)) for stage in range(stages)]
    assert max(held) == most_in_flight(one_forward_one_backward(0, stages, microbatches)) == min(stages, microbatches)
    for stage in range(stages):
        freed_early = most_held(zero_bubble(stage, stages, microbatches), [1], [0])
        assert freed_early == most_in_flight(one_forward_one_backward(stage, stages, microbatches))


def test_what_is_held_counts_by_chunk_and_by_half() -> None:
    order = [Slot("F", 0), Slot("F", 0, 1), Slot("I", 0, 1), Slot("F", 1), Slot("W", 0, 1), Slot("B", 0), Slot("B", 1)]
    assert most_held(order, [10, 5], [0, 3]) == 10 + 3 + 10
    assert most_held(order, [10, 50], [0, 3]) == 10 + 50
    assert most_held(gpipe(3), [7], [0]) == 21
    assert most_held([Slot("F", 0), Slot("I", 0), Slot("W", 0)], [4], [6]) == 6


REFUSED = [
    (partition("interleaved_one_forward_one_backward", 4, 9, 2), "9", "2", "12"),
    (partition("interleaved_zero_bubble", 3, 11, 2), "11", "3", "12"),
    (partition("dual_pipe_v", 3, 5, 2), "5", "6", "6"),
]


@pytest.mark.parametrize(("asked", "found", "needed", "remedy"), REFUSED)
def test_what_a_schedule_cannot_do_is_refused(asked: Partition, found: str, needed: str, remedy: str) -> None:
    (reason,) = refusals(asked)
    assert f"partition.microbatches ({found})" in reason
    assert asked.schedule in reason
    assert needed in reason
    assert reason.endswith(remedy)
    assert not refusals(asked.model_copy(update={"microbatches": int(remedy)}))


TORCH = (2, 13)
needs_private_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) != TORCH,
    reason=f"the order is read from private parts of torch {'.'.join(map(str, TORCH))}",
)
LISTED = {
    "zero_bubble": "ScheduleInterleavedZeroBubble",
    "interleaved_one_forward_one_backward": "ScheduleInterleaved1F1B",
    "interleaved_zero_bubble": "ScheduleInterleavedZeroBubble",
    "zero_bubble_v": "ScheduleZBVZeroBubble",
    "dual_pipe_v": "ScheduleDualPipeV",
}
COUNTS = (*range(4, 22), 24, 30, 31, 32, 48, 63, 64)
Pass = tuple[str, int, int, bool]


def stage_of_torch(asked: Partition, rank: int) -> Any:
    stage = mock.create_autospec(PipelineStage, instance=True)
    stage.group_rank, stage.group_size, stage.submod = rank, asked.pipeline, None
    stage.stage_index, stage.is_last = rank, rank == asked.pipeline - 1
    stage.num_stages = asked.pipeline * asked.chunks
    return stage


@needs_private_torch
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("schedule", list(LISTED))
def test_slots_are_in_the_order_that_torch_lists(schedule: str, pipeline: int) -> None:
    """As in torch's own visualiser, one stand-in for a stage is enough; messages, added to the order, are left out."""
    found = [each for each in allowed(schedule, [pipeline], COUNTS) if in_rounds(each)]
    assert len(found) > 5
    stage = stage_of_torch(found[0], 0)
    for asked in found:
        stage.num_stages = asked.pipeline * asked.chunks
        with mock.patch.object(schedules._PipelineScheduleRuntime, "_prepare_schedule_with_comms"):
            listed = getattr(schedules, LISTED[schedule])([stage] * asked.chunks, asked.microbatches).pipeline_order
        for rank in range(pipeline):
            ours = [
                (slot.direction, stage_of(asked, rank, slot.chunk), slot.microbatch, slot.with_next)
                for slot in slots(asked, rank)
            ]
            assert ours == [each for action in listed[rank] if action for each in passes(action)], (asked, rank)


def in_rounds(asked: Partition) -> bool:
    """Tell whether torch's class takes it: with one chunk, too, it wants equal rounds, which mean nothing there."""
    rounds = max(1, asked.microbatches // asked.pipeline)
    return asked.schedule in V_SHAPED or asked.microbatches % rounds == 0


def passes(action: Any) -> Iterator[Pass]:
    """Give the passes of an action, two of a pair: direction, stage, microbatch, whether the other one follows."""
    parts = action.sub_actions or (action,)
    for part in parts:
        yield part.computation_type.value, part.stage_index, part.microbatch_index, part is not parts[-1]


@needs_private_torch
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    ("schedule", "name"), [("gpipe", "ScheduleGPipe"), ("one_forward_one_backward", "Schedule1F1B")]
)
def test_slots_are_in_the_order_that_torch_runs(schedule: str, name: str, pipeline: int) -> None:
    """What these classes list is not what they run: 1F1B's list has the last stage's forward passes one too high."""
    for asked in allowed(schedule, [pipeline], (8, 9, 16)):
        for rank in range(pipeline):
            stage = stage_of_torch(asked, rank)
            for each in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
                getattr(stage, each).return_value = []
            theirs = getattr(schedules, name)(stage, asked.microbatches)
            with mock.patch.object(theirs, "_initialize_stage"):
                theirs._step_microbatches([()] * asked.microbatches, [{}] * asked.microbatches)
            calls = {"forward_one_chunk": "F", "backward_one_chunk": "B"}
            ran = [Slot(calls[call[0]], call.args[0]) for call in stage.method_calls if call[0] in calls]
            assert slots(asked, rank) == ran
