"""The native engine runs every product of parallelism: it learns what one process learns, and does what is predicted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tests import native_crew
from tests.native_crew import Trained
from tests.test_native import predicted

from twinstep.compare import exchange_differences
from twinstep.plan import Plan
from twinstep.profile import Profile

STEPS, WARMUP = 8, 2
ONE_CHUNK = ("gpipe", "one_forward_one_backward", "zero_bubble")
TWO_CHUNKS = ("interleaved_one_forward_one_backward", "interleaved_zero_bubble", "zero_bubble_v", "dual_pipe_v")
CHUNKS = dict.fromkeys(ONE_CHUNK, 1) | dict.fromkeys(TWO_CHUNKS, 2)
SCHEDULES = {name: {"pipeline": 2, "microbatches": 4, "schedule": name, "chunks": CHUNKS[name]} for name in CHUNKS}
TENSOR = {"tensor": 2}
SEQUENCE = {"tensor": 2, "sequence_parallel": True}
CONTEXT = {"context": 2}
OF_2: dict[str, dict[str, Any]] = {
    "tp": TENSOR,
    "tp+sp": SEQUENCE | {"microbatches": 2},
    "cp": CONTEXT,
    "cp+fsdp": CONTEXT | {"data": 1, "microbatches": 2},
    "recompute": {"data": 2, "sharding": "parameters", "recompute": "full", "microbatches": 2},
    "tp+sp recompute": SEQUENCE | {"recompute": "full"},
} | {f"pp {name}": partition for name, partition in SCHEDULES.items()}
SHARDED = {"data": 2, "sharding": "parameters"}
OF_4: dict[str, dict[str, Any]] = {
    "tp 4": {"tensor": 4},
    "cp 4": {"context": 4},
    "fsdp 4": {"data": 4, "sharding": "parameters", "microbatches": 2},
    "zero 2 of 4": {"data": 4, "sharding": "gradients", "microbatches": 2},
    "hybrid sharding": {"data": 4, "sharding": "parameters", "sharding_copies": 2, "microbatches": 2},
    "fsdp x tp": SHARDED | TENSOR,
    "fsdp x tp+sp": SHARDED | SEQUENCE | {"microbatches": 2},
    "zero 2 x tp": TENSOR | {"data": 2, "sharding": "gradients"},
    "dp x tp": {"data": 2} | TENSOR,
    "dp x cp": {"data": 2} | CONTEXT,
    "tp+sp x cp": SEQUENCE | CONTEXT,
    "tp+sp x pp": SEQUENCE | SCHEDULES["one_forward_one_backward"],
    "tp x pp v": TENSOR | SCHEDULES["zero_bubble_v"],
    "cp x pp": CONTEXT | SCHEDULES["one_forward_one_backward"],
    "dp x pp": {"data": 2} | SCHEDULES["one_forward_one_backward"],
    "dp x pp interleaved": {"data": 2} | SCHEDULES["interleaved_one_forward_one_backward"],
} | {f"fsdp x pp {name}": SHARDED | partition for name, partition in SCHEDULES.items()}
OF_8: dict[str, dict[str, Any]] = {
    "dp x tp x pp": {"data": 2} | TENSOR | SCHEDULES["one_forward_one_backward"],
    "fsdp x tp+sp x pp": SHARDED | SEQUENCE | SCHEDULES["zero_bubble"],
}
PARTITIONS = OF_2 | OF_4 | OF_8


def plan_of(partition: dict[str, Any]) -> Plan:
    degrees = [partition.get(name, 1) for name in ("data", "tensor", "context", "pipeline")]
    ranks = degrees[0] * degrees[1] * degrees[2] * degrees[3]
    data = {
        "workload": {"kind": "gpt", "layers": 5, "heads": 4, "width": 32, "context": 16, "batch": 8,
                     "optimizer": {"kind": "momentum", "learning_rate": 0.1}},
        "partition": partition,
        "sync": {"bucket": "8 KiB"},
        "topology": {"builder": "one_host", "devices": ranks, "device": "cpu"},
        "run": {"engine": "native", "steps": STEPS, "warmup": WARMUP, "seed": 3},
    }
    return Plan.model_validate(data)
