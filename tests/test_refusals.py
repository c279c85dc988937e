"""Options that would do nothing are refused, and each refusal says what to set instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.pipelines import refusals

from twinstep.errors import InputError
from twinstep.memory import smallest_change
from twinstep.partition import Partition
from twinstep.plan import Plan
from twinstep.scenario import load_scenario

GPT = {"kind": "gpt", "layers": 4, "heads": 4, "width": 32, "context": 16, "batch": 16}
MLP = {"kind": "mlp", "hidden": [32], "batch": 16}
CPUS = {"builder": "one_host", "devices": 4, "device": "cpu"}
RATES = {"peak": "100 GFLOP/s", "memory_bandwidth": "50 GB/s"}


def content(workload: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        "workload": workload,
        "topology": {"builder": "one_host", "devices": 16, "device": RATES},
        "run": {"compute": "emulated"},
    } | sections


def refusal(workload: dict[str, Any], **sections: Any) -> str:
    """Give the message with which a plan is refused."""
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(content(workload, **sections))
    (error,) = caught.value.errors()
    return error["msg"].removeprefix("Value error, ")


def answer(folder: Path, workload: dict[str, Any], **sections: Any) -> str:
    """Give what a user reads of a scenario file."""
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(content(workload, **sections)))
    with pytest.raises(InputError) as caught:
        load_scenario(str(file))
    return str(caught.value)


@pytest.mark.parametrize("workload", [GPT, MLP], ids=["gpt", "mlp"])
@pytest.mark.parametrize(
    ("partition", "key"),
    [
        ({"schedule": "gpipe"}, "partition.schedule gpipe"),
        ({"schedule": "dual_pipe_v", "chunks": 2}, "partition.schedule dual_pipe_v"),
        ({"chunks": 2}, "partition.chunks (2)"),
        ({"data": 2, "microbatches": 4, "schedule": "gpipe"}, "partition.schedule gpipe"),
    ],
)
def test_a_schedule_needs_a_pipeline(workload: dict[str, Any], partition: dict[str, Any], key: str) -> None:
    expected = f"{key} needs partition.pipeline of 2 or more: leave it out"
    assert refusal(workload, partition=partition) == expected


@pytest.mark.parametrize("sharding", ["gradients", "parameters"])
def test_units_leave_nothing_to_buckets(sharding: str) -> None:
    partition = {"data": 2, "sharding": sharding}
    message = refusal(GPT, partition=partition, sync={"bucket": "1 MiB"})
    remedy = "leave it out, or set sync.bucket to 25.0 MiB"
    assert message == f"sync.bucket does nothing with partition.sharding {sharding}, which sends units: {remedy}"
    Plan.model_validate(content(GPT, partition=partition, sync={"bucket": "25 MiB"}))
    Plan.model_validate(content(GPT, partition=partition | {"sharding": "optimizer"}, sync={"bucket": "1 MiB"}))


def test_torch_sums_tensor_parallel_gradients_by_units() -> None:
    run, partition = {"engine": "native"}, {"data": 2, "tensor": 2}
    message = refusal(GPT, partition=partition, sync={"bucket": "1 MiB"}, run=run, topology=CPUS)
    assert "sync.bucket does nothing with run.engine native and partition.tensor" in message
    assert message.endswith(": leave it out, or set sync.bucket to 25.0 MiB")
    Plan.model_validate(content(GPT, partition=partition, sync={"bucket": "1 MiB"}))


def test_a_change_that_makes_a_plan_fit_leaves_out_what_does_nothing_then(tmp_path: Path) -> None:
    memory = RATES | {"memory": "640 KiB"}
    file = tmp_path / "plan.yaml"
    topology = {"builder": "one_host", "devices": 4, "device": memory}
    narrow = content(GPT | {"batch": 4, "context": 4}, partition={"data": 4}, topology=topology)
    file.write_text(yaml.safe_dump(narrow))
    scenario = load_scenario(str(file))
    usual = smallest_change(scenario.plan, scenario.topology)
    assert usual is not None
    assert usual.changes == {"sharding": "gradients"}
    assert "sync.bucket" not in usual.words
    with_bucket = load_scenario(str(file), ("sync.bucket=1 MiB",))
    found = smallest_change(with_bucket.plan, with_bucket.topology)
    assert found is not None
    assert found.changes == usual.changes
    assert found.words.startswith("set partition.sharding to gradients and leave out sync.bucket: ")


def test_compression_names_what_excludes_it() -> None:
    sync = {"compression": {"kind": "fp16"}}
    message = refusal(GPT, partition={"data": 2, "sharding": "parameters"}, sync=sync)
    assert message == "sync.compression.kind fp16 excludes partition.sharding: leave one out"
    regression = {"kind": "linear_regression"}
    assert "excludes partition.features" in refusal(regression, partition={"features": 2}, sync=sync)


def test_ranks_that_share_tokens_share_parameters() -> None:
    Plan.model_validate(content(GPT, partition={"context": 4, "sharding": "parameters"}))
    message = refusal(GPT, partition={"pipeline": 2, "sharding": "parameters"})
    assert message.startswith("partition.sharding parameters needs partition.data or partition.context of 2 or more: ")


@pytest.mark.parametrize(
    ("partition", "degree"),
    [
        ({"tensor": 4, "pipeline": 8}, "pipeline"),
        ({"data": 4, "tensor": 8}, "tensor"),
        ({"data": 8, "tensor": 4}, "data"),
        ({"data": 32}, "data"),
    ],
)
def test_too_many_ranks_are_answered_with_a_degree_that_can_be_lowered(
    partition: dict[str, Any], degree: str, tmp_path: Path
) -> None:
    workload = GPT | {"heads": 8, "layers": 8, "batch": 32}
    assert f"lower partition.{degree}, or give the topology more" in answer(tmp_path, workload, partition=partition)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"partition": {"order": ["data"]}},
            "plan.yaml:2: partition.order must name tensor, context, data and pipeline",
        ),
        ({"sync": {"every": 2}}, "sync.every applies to sync.method local_sgd and gossip\nleave it at 1"),
    ],
)
def test_a_key_is_named_once(sections: dict[str, Any], expected: str, tmp_path: Path) -> None:
    message = answer(tmp_path, GPT, **sections)
    assert expected in message
    assert message.count(f"{next(iter(sections))}.") == expected.count(f"{next(iter(sections))}.")


MISFITS = [
    Partition(tensor=3),
    Partition(context=16),
    Partition(sequence_parallel=True),
    Partition(tensor=2, sequence_parallel=True, context=4),
    Partition(sharding="parameters"),
    Partition(data=2, sharding_copies=2),
    Partition(data=4, sharding="parameters", sharding_copies=3),
    Partition(data=2, expert=4),
    Partition(data=4, expert=2),
    Partition(pipeline=2, microbatches=4, chunks=2),
    Partition(pipeline=2, microbatches=4, schedule="zero_bubble_v"),
    Partition(pipeline=2, microbatches=4, schedule="interleaved_zero_bubble"),
    Partition(pipeline=4, microbatches=9, schedule="interleaved_zero_bubble", chunks=2),
    Partition(pipeline=2, microbatches=2, schedule="dual_pipe_v", chunks=2),
    Partition(pipeline=128),
    Partition(offload="optimizer", context=2),
    Partition(offload="optimizer", data=2, expert=2),
    Partition(offload="optimizer", data=4, sharding="parameters", sharding_copies=2),
    Partition(offload="optimizer", pipeline=2, microbatches=4, schedule="zero_bubble_v", chunks=2),
]


@pytest.mark.parametrize("partition", MISFITS, ids=str)
def test_every_misfit_has_a_remedy(partition: Partition) -> None:
    found = refusals(partition)
    assert found
    for message in found:
        assert any(f": {verb} partition." in message for verb in ("set", "lower", "raise")), message


def test_offloading_a_mixture_has_a_remedy() -> None:
    message = refusal(GPT | {"experts": 4}, partition={"offload": "optimizer"})
    assert message.endswith("needs a workload without experts: set partition.offload to none")
