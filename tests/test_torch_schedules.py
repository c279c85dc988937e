"""Pipeline schedules: our slots are in the order of torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from tests.pipelines import PIPELINES, allowed
from torch.distributed.pipelining import PipelineStage, schedules

from twinstep.degrees import V_SHAPED
from twinstep.partition import Partition
from twinstep.programs.schedules import Slot, slots, stage_of

TORCH = (2, 13)
pytestmark = pytest.mark.skipif(
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


def stand_in(asked: Partition, rank: int) -> Any:
    stage = mock.create_autospec(PipelineStage, instance=True)
    stage.group_rank, stage.group_size, stage.submod = rank, asked.pipeline, None
    stage.stage_index, stage.is_last = rank, rank == asked.pipeline - 1
    stage.num_stages = asked.pipeline * asked.chunks
    return stage


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("schedule", list(LISTED))
def test_slots_are_in_the_order_that_torch_lists(schedule: str, pipeline: int) -> None:
    """As in torch's own visualiser, one stand-in for a stage is enough; messages, added to the order, are left out."""
    found = [each for each in allowed(schedule, [pipeline], COUNTS) if in_rounds(each)]
    assert len(found) > 5
    stage = stand_in(found[0], 0)
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


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    ("schedule", "name"), [("gpipe", "ScheduleGPipe"), ("one_forward_one_backward", "Schedule1F1B")]
)
def test_slots_are_in_the_order_that_torch_runs(schedule: str, name: str, pipeline: int) -> None:
    """What these classes list is not what they run: 1F1B's list has the last stage's forward passes one too high."""
    for asked in allowed(schedule, [pipeline], (8, 9, 16)):
        for rank in range(pipeline):
            stage = stand_in(asked, rank)
            for each in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
                getattr(stage, each).return_value = []
            theirs = getattr(schedules, name)(stage, asked.microbatches)
            with mock.patch.object(theirs, "_initialize_stage"):
                theirs._step_microbatches([()] * asked.microbatches, [{}] * asked.microbatches)
            calls = {"forward_one_chunk": "F", "backward_one_chunk": "B"}
            ran = [Slot(calls[call[0]], call.args[0]) for call in stage.method_calls if call[0] in calls]
            assert slots(asked, rank) == ran
