"""What we say torch refuses is what it refuses."""

from __future__ import annotations

import re
from typing import Any, get_args
from unittest import mock

import pytest
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from twinstep.degrees import INTERLEAVED, V_SHAPED, misfits
from twinstep.exec.native.pipeline import SCHEDULES
from twinstep.partition import Partition, Schedule
from twinstep.torch_pipelines import WEIGHTS_APART, limit_of_torch
from twinstep.workloads import Gpt

MANY = get_args(Schedule)


def refusal(partition: Partition) -> str:
    """Say why a plan is refused, or is not run by torch."""
    deep = Gpt.model_validate({"kind": "gpt", "layers": 8, "heads": 1, "width": 8, "context": 8, "batch": 1})
    return next(misfits(partition, deep), "") or limit_of_torch(partition)


@pytest.fixture(scope="module")
def stage() -> Any:
    """Stand in for a stage."""
    found = mock.create_autospec(PipelineStage, instance=True)
    found.group_rank, found.submod = 0, None
    return found


def torch_refuses(partition: Partition, stage: Any) -> bool:
    """Build torch's schedule over stages that are made up."""
    stage.group_size, stage.num_stages = partition.pipeline, partition.pipeline * partition.chunks
    kind = SCHEDULES[partition.schedule]
    stages = stage if issubclass(kind, PipelineScheduleSingle) else [stage] * partition.chunks
    try:
        kind(stages, partition.microbatches)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("schedule", MANY)
def test_limits_are_those_of_torch(schedule: Schedule, stage: Any) -> None:
    chunks = 2 if schedule in INTERLEAVED + V_SHAPED else 1
    cases = [
        Partition(pipeline=pipeline, microbatches=microbatches, chunks=chunks, schedule=schedule)
        for pipeline in (2, 3, 4)
        for microbatches in range(1, 14)
    ]
    assert [bool(refusal(case)) for case in cases] == [torch_refuses(case, stage) for case in cases]


@pytest.mark.parametrize("schedule", ["one_forward_one_backward", "zero_bubble"])
def test_the_number_that_is_named_is_one_that_torch_takes(schedule: Schedule, stage: Any) -> None:
    refused = [Partition(pipeline=4, microbatches=number, schedule=schedule) for number in range(1, 30)]
    for case in filter(limit_of_torch, refused):
        advice = limit_of_torch(case).partition("set partition.microbatches to ")[2]
        named = int(re.findall(r"\d+", advice)[-1])
        assert not torch_refuses(case.model_copy(update={"microbatches": named}), stage)


@pytest.mark.parametrize("schedule", MANY)
def test_replicas_need_passes_whose_gradients_are_seen(schedule: Schedule) -> None:
    chunks = 2 if schedule in INTERLEAVED + V_SHAPED else 1
    partition = Partition(pipeline=2, data=2, microbatches=8, chunks=chunks, schedule=schedule)
    assert ("DistributedDataParallel" in limit_of_torch(partition)) == (schedule in WEIGHTS_APART)
    assert not limit_of_torch(partition.model_copy(update={"sharding": "parameters"}))
