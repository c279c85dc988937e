"""Pipeline schedules: our slots are in the order of torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from tests.pipelines import PIPELINES, allowed
from tests.repeated import slow_but
from torch.distributed.pipelining import PipelineStage, schedules

from twinstep.degrees import V_SHAPED
from twinstep.partition import Partition
from twinstep.programs.schedules import slots, stage_of

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
each_pipeline = pytest.mark.parametrize("pipeline", slow_but((2, 3, 6), PIPELINES))


RUN = {"gpipe": "ScheduleGPipe", "one_forward_one_backward": "Schedule1F1B"}


@pytest.fixture(scope="module")
def stage() -> Any:
    """Stand in for a stage that has nothing to send or receive."""
    found = mock.create_autospec(PipelineStage, instance=True)
    found.group_rank, found.submod = 0, None
    for name in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
        getattr(found, name).return_value = []
    return found


@each_pipeline
@pytest.mark.parametrize("schedule", list(LISTED))
def test_slots_are_in_the_order_that_torch_lists(schedule: str, pipeline: int, stage: Any) -> None:
    """As in torch's own visualiser, one stand-in for a stage is enough; messages, added later, are left out."""
    found = [each for each in allowed(schedule, [pipeline], COUNTS) if in_rounds(each)]
    assert len(found) > 5
    for asked in found:
        stage.group_size, stage.num_stages = pipeline, pipeline * asked.chunks
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


@each_pipeline
@pytest.mark.parametrize("schedule", list(RUN))
def test_slots_are_in_the_order_that_torch_runs(schedule: str, pipeline: int, stage: Any) -> None:
    """What these classes list is not what they run: 1F1B's list has the last stage's forward passes one too high."""
    stage.group_size = stage.num_stages = pipeline
    calls = {"forward_one_chunk": "F", "backward_one_chunk": "B"}
    for asked in allowed(schedule, [pipeline], (8, 9, 16, 64)):
        for rank in range(pipeline):
            stage.reset_mock()
            stage.stage_index, stage.is_last = rank, rank == pipeline - 1
            theirs = getattr(schedules, RUN[schedule])(stage, asked.microbatches)
            with mock.patch.object(theirs, "_initialize_stage"):
                theirs._step_microbatches([()] * asked.microbatches, [{}] * asked.microbatches)
            ran = [(calls[call[0]], call.args[0]) for call in stage.method_calls if call[0] in calls]
            assert [slot[:2] for slot in slots(asked, rank)] == ran
