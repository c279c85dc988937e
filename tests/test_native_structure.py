"""The native engine runs every product: ranks learn what one process learns, and communicate what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Any

import pytest
import torch
from tests import native_crew
from tests.native_crew import Trained
from tests.test_native import computed, predicted
from tests.test_transparency import Learnt, train_alone

from twinstep.compare import exchange_differences
from twinstep.exec.models import build_layers
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs.schedules import slots, stage_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TOLERANCE = 1e-4
"""Of a loss; of a parameter's difference, as a part of the change that training has made to it."""
WARMUP = 2
CHUNKS = {
    "gpipe": 1,
    "one_forward_one_backward": 1,
    "zero_bubble": 1,
    "interleaved_one_forward_one_backward": 2,
    "interleaved_zero_bubble": 2,
    "zero_bubble_v": 2,
    "dual_pipe_v": 2,
}
Partition = dict[str, Any]
SCHEDULES: dict[str, Partition] = {
    name: {"pipeline": 2, "microbatches": 4, "schedule": name, "chunks": chunks} for name, chunks in CHUNKS.items()
}
PIPELINE, INTERLEAVED = SCHEDULES["one_forward_one_backward"], SCHEDULES["interleaved_one_forward_one_backward"]
TENSOR, SEQUENCE, CONTEXT = {"tensor": 2}, {"tensor": 2, "sequence_parallel": True}, {"context": 2}
SHARDED, TWICE = {"data": 2, "sharding": "parameters"}, {"microbatches": 2}
OF_2: dict[str, Partition] = {
    "tp": TENSOR,
    "tp+sp": SEQUENCE | TWICE,
    "cp": CONTEXT | TWICE,
    "fsdp on cp": CONTEXT | TWICE | {"sharding": "parameters"},
    **{f"pp {name}": partition for name, partition in SCHEDULES.items()},
    "fsdp, recomputing": SHARDED | TWICE | {"recompute": "full"},
    "tp, recomputing": TENSOR | {"recompute": "full"},
    "tp+sp, recomputing": SEQUENCE | {"recompute": "full"},
}
OF_4: dict[str, Partition] = {
    "fsdp": {"data": 4, "sharding": "parameters"} | TWICE,
    "zero 2": {"data": 4, "sharding": "gradients"} | TWICE,
    "hybrid sharding": {"data": 4, "sharding": "parameters", "sharding_copies": 2} | TWICE,
    "tp 4": {"tensor": 4},
    "cp 4": {"context": 4},
    "fsdp x tp": SHARDED | TENSOR,
    "fsdp x tp+sp": SHARDED | SEQUENCE | TWICE,
    "zero 2 x tp": {"data": 2, "sharding": "gradients"} | TENSOR,
    "dp x tp": {"data": 2} | TENSOR,
    "dp x tp+sp": {"data": 2} | SEQUENCE | TWICE,
    "dp x cp": {"data": 2} | CONTEXT,
    "fsdp x cp": SHARDED | CONTEXT,
    "tp+sp x cp": SEQUENCE | CONTEXT,
    "tp+sp x pp": SEQUENCE | PIPELINE,
    "tp x pp, V": TENSOR | SCHEDULES["zero_bubble_v"],
    "cp x pp": CONTEXT | PIPELINE,
    "dp x pp": {"data": 2} | PIPELINE,
    "dp x pp, interleaved": {"data": 2} | INTERLEAVED,
    **{f"fsdp x pp {name}": SHARDED | partition for name, partition in SCHEDULES.items()},
    "pp x fsdp, other order": SHARDED | PIPELINE | {"order": ["pipeline", "tensor", "context", "data"]},
}
OF_8: dict[str, Partition] = {
    "dp x tp x pp": {"data": 2} | TENSOR | PIPELINE,
    "fsdp x tp+sp x pp": SHARDED | SEQUENCE | SCHEDULES["zero_bubble"],
}
ALL = {2: OF_2, 4: OF_4, 8: OF_8}
NAMES = [name for partitions in ALL.values() for name in partitions]
LONG = ("tp", "tp+sp", "cp", "pp one_forward_one_backward", "pp zero_bubble", "fsdp x tp", *OF_8)
LONG = (*LONG, "pp interleaved_one_forward_one_backward")
"""Those that train for ten steps; the others for three."""


def has_units(partition: Partition) -> bool:
    """Tell whether gradients travel by units, so that there are no buckets to be given a size."""
    return partition.get("tensor", 1) > 1 or partition.get("sharding") in ("gradients", "parameters")


def plan_of(name: str) -> Plan:
    (ranks, partition), *_ = [(ranks, ALL[ranks][name]) for ranks in ALL if name in ALL[ranks]]
    sizes = {"layers": 5, "heads": 4, "width": 32, "context": 16, "batch": 8}
    data = {
        # AdamW would not see a wrong scale of gradients
        "workload": {"kind": "gpt", **sizes, "optimizer": {"kind": "momentum", "learning_rate": 0.3}},
        "partition": partition,
        "sync": {} if has_units(partition) else {"bucket": "8 KiB"},
        "topology": {"builder": "one_host", "devices": ranks, "device": "cpu"},
        "run": {"engine": "native", "steps": 8 if name in LONG else 1, "warmup": WARMUP, "seed": 3},
    }
    return Plan.model_validate(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Give a function that gives what a plan's ranks have done; equally many ranks start once for all their plans."""

    @cache
    def crew(ranks: int) -> dict[str, Trained]:
        return native_crew.train({name: plan_of(name) for name in ALL[ranks]}, tmp_path_factory.mktemp("crew"))

    return lambda name: crew(plan_of(name).ranks)[name]


@pytest.fixture(scope="module")
def alone() -> Callable[[Plan], Learnt]:
    """Give a function that trains a plan in this process: all have the same model and the same batches."""

    @cache
    def train(steps: int) -> Learnt:
        return train_alone(plan_of("tp" if steps == plan_of("tp").total_steps else "tp 4"))

    return lambda plan: train(plan.total_steps)


@pytest.mark.parametrize("name", NAMES)
def test_no_plan_is_refused(name: str) -> None:
    assert plan_of(name).predicted_only == ""


@pytest.mark.parametrize("name", NAMES)
def test_ranks_learn_what_one_process_learns(
    name: str, trained: Callable[[str], Trained], alone: Callable[[Plan], Learnt]
) -> None:
    plan, found, expected = plan_of(name), trained(name), alone(plan_of(name))
    assert name not in LONG or expected.losses[-1] < 0.9 * expected.losses[0], "nothing is learnt"
    torch.testing.assert_close(found.losses, expected.losses, rtol=TOLERANCE, atol=0)
    assert found.parameters.keys() == expected.parameters.keys()
    for key, first in build_layers(plan.training, plan.run.seed).named_parameters():
        change = float((expected.parameters[key] - first.detach()).norm())
        assert float((found.parameters[key] - expected.parameters[key]).norm()) <= TOLERANCE * change, key


@pytest.mark.parametrize("name", NAMES)
def test_torch_communicates_what_is_predicted(name: str, trained: Callable[[str], Trained], profile: Profile) -> None:
    assert exchange_differences(predicted(plan_of(name), profile), trained(name).timeline) == ()


@pytest.mark.parametrize("name", [name for name in OF_2 if name.startswith("pp")])
def test_the_passes_of_a_pipeline_are_told(name: str, trained: Callable[[str], Trained]) -> None:
    """Each slot of the plan's schedule is seen, in its order; the first stage's weights have no pass of their own."""
    plan = plan_of(name)
    phases = {"F": "forward", "B": "backward", "I": "backward", "W": "weight_gradients"}
    for rank in range(2):
        expected = []
        for slot in slots(plan.partition, rank):
            whole = slot.direction == "W" and stage_of(plan.partition, rank, slot.chunk) == 0
            expected.append(f"{'backward' if whole else phases[slot.direction]}[microbatch={slot.microbatch}]")
        seen = [span.operation for span in computed(trained(name).timeline, rank, WARMUP)]
        told = [operation for operation in seen if "[microbatch" in operation]
        assert [key for key, _ in groupby(told)] == [key for key, _ in groupby(expected)]
