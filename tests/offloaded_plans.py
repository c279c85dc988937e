"""Plans with the optimizer's state on the host."""

from __future__ import annotations

from typing import Any

import pytest

from twinstep.plan import Plan
from twinstep.programs import Hybrid
from twinstep.sim import simulate
from twinstep.timeline import Timeline
from twinstep.topologies import build

MODEL = {"layers": 4, "heads": 4, "width": 64, "context": 32, "batch": 16}
LATENCY_S = 1e-6
PEAK, BANDWIDTH = 1e11, 2e9
"""Of the host's processor."""


def plan_of(
    offload: str = "optimizer",
    *,
    link: str = "1 GB/s",
    overlap: bool = True,
    hosts: int = 1,
    optimizer: str = "adamw",
    workload: dict[str, Any] | None = None,
    processor: dict[str, str] | None = None,
    device: dict[str, str] | None = None,
    **partition: Any,
) -> Plan:
    ranks = partition.get("data", 1) * partition.get("tensor", 1) * partition.get("pipeline", 1)
    sends_units = partition.get("sharding") in ("gradients", "parameters")
    rates = {"peak": "1 TFLOP/s", "memory_bandwidth": "100 GB/s", "overhead": "1 us"}
    host = {"peak": "100 GFLOP/s", "memory_bandwidth": "2 GB/s", "memory": "64 GiB"}
    return Plan.model_validate(
        {
            "workload": {"kind": "gpt", "optimizer": {"kind": optimizer}} | MODEL | (workload or {}),
            "partition": partition | {"offload": offload},
            "sync": {"overlap": overlap} | ({} if sends_units else {"bucket": "64 KiB"}),
            "communication": {"library": "ideal"},
            "topology": {
                "builder": "star",
                "hosts": hosts,
                "devices_per_host": ranks // hosts,
                "device": rates | (device or {}),
                "processor": host | (processor or {}),
                "link": {"bandwidth": "10 GB/s", "latency": "1 us"},
                "internal_link": {"bandwidth": link, "latency": "1 us"},
            },
            "run": {"steps": 1, "warmup": 0, "compute": "emulated"},
        }
    )


def timeline_of(plan: Plan, *, fold: bool = True) -> Timeline:
    """Simulate the hybrid programs; without offload a plan of one rank has others, which fetch a batch, too."""
    return simulate(plan, Hybrid(plan), build(plan.topology), None, fold=fold).timeline  # type: ignore[arg-type]


def plan_without(plan: Plan) -> Plan:
    return plan.model_copy(update={"partition": plan.partition.model_copy(update={"offload": "none"})})


PARTITIONS: list[dict[str, Any]] = [
    {},
    {"microbatches": 4},
    {"recompute": "full"},
    {"data": 4},
    {"data": 4, "sharding": "optimizer"},
    {"data": 4, "sharding": "gradients"},
    {"data": 4, "sharding": "parameters"},
    {"tensor": 2},
    {"tensor": 2, "sequence_parallel": True},
    {"tensor": 2, "sequence_parallel": True, "data": 2},
    {"tensor": 2, "data": 2, "sharding": "optimizer"},
    {"tensor": 2, "data": 2, "sharding": "parameters"},
    {"pipeline": 2, "microbatches": 4},
    {"pipeline": 2, "microbatches": 4, "schedule": "zero_bubble"},
    {"pipeline": 2, "microbatches": 4, "chunks": 2, "schedule": "interleaved_one_forward_one_backward"},
    {"data": 2, "pipeline": 2, "microbatches": 4, "sharding": "parameters"},
    {"data": 2, "tensor": 2, "pipeline": 2, "microbatches": 2},
]
each_partition = pytest.mark.parametrize("partition", PARTITIONS, ids=str)
