"""The native engine: torch's own wrappers learn what one process learns, and do what our programs and papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.test_transparency import assert_equal, train_alone, train_in_ranks

from twinstep.plan import Plan

GPT = {"kind": "gpt", "layers": 2, "heads": 2, "width": 32, "context": 16, "batch": 8}
RUN = {"engine": "native", "steps": 8, "warmup": 2, "seed": 3}
PARTITIONS: dict[str, dict[str, Any]] = {
    "one rank": {"data": 1},
    "one rank, accumulating": {"data": 1, "microbatches": 4},
    "replicas": {"data": 2},
    "replicas, accumulating": {"data": 2, "microbatches": 4},
    "optimizer": {"data": 2, "sharding": "optimizer"},
    "optimizer, accumulating": {"data": 2, "sharding": "optimizer", "microbatches": 2},
    "gradients": {"data": 2, "sharding": "gradients"},
    "gradients, accumulating": {"data": 2, "sharding": "gradients", "microbatches": 2},
    "parameters": {"data": 2, "sharding": "parameters"},
    "parameters, accumulating": {"data": 2, "sharding": "parameters", "microbatches": 2},
    "parameters on four": {"data": 4, "sharding": "parameters"},
    "copies": {"data": 4, "sharding": "parameters", "sharding_copies": 2},
    "copies, accumulating": {"data": 4, "sharding": "gradients", "sharding_copies": 2, "microbatches": 2},
}


def plan_of(partition: dict[str, Any], **changes: Any) -> Plan:
    ranks = partition.get("data", 1) * partition.get("tensor", 1) * partition.get("pipeline", 1)
    data: dict[str, Any] = {
        "workload": GPT,
        "partition": partition,
        "sync": {"bucket": "8 KiB"},
        "topology": {"builder": "one_host", "devices": ranks, "device": "cpu"},
        "run": RUN,
    }
    return Plan.model_validate(data | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTITIONS)
def test_torch_learns_what_one_process_learns(name: str, tmp_path: Path) -> None:
    plan = plan_of(PARTITIONS[name])
    assert_equal(train_in_ranks(plan, tmp_path), train_alone(plan))
