"""What a rank is said to hold is what torch allocates, and what published formulas say."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from tests.torch_memory import OneProcess, bytes_of, most_allocated_bytes

from twinstep.plan import Plan
from twinstep.programs.hybrid import Hybrid
from twinstep.workloads import Gpt

SCALAR_BYTES = 4
"""The loss and its weight."""
SHAPES = {
    "small": {"layers": 2, "heads": 4, "width": 64, "context": 32, "batch": 8},
    "wide": {"layers": 3, "heads": 4, "width": 192, "context": 16, "batch": 4},
    "long": {"layers": 2, "heads": 2, "width": 64, "context": 256, "batch": 4},
    "deep": {"layers": 8, "heads": 2, "width": 32, "context": 32, "batch": 16},
    "few samples": {"layers": 2, "heads": 8, "width": 256, "context": 8, "batch": 4},
}


def plan_of(shape: dict[str, Any], kind: str = "adamw", **partition: Any) -> Plan:
    workload = {"kind": "gpt", "optimizer": {"kind": kind}} | shape
    degrees = [partition.get(name, 1) for name in ("data", "tensor", "context", "pipeline")]
    ranks = degrees[0] * degrees[1] * degrees[2] * degrees[3]
    return Plan.model_validate(
        {
            "workload": workload,
            "partition": partition,
            "topology": {"builder": "one_host", "devices": ranks, "device": "cpu"},
            "run": {"compute": "emulated"},
        }
    )


def one_process(plan: Plan) -> OneProcess:
    assert isinstance(plan.workload, Gpt)
    partition = plan.partition
    return OneProcess(plan.workload, partition.microbatches, recomputes=partition.recompute == "full")


def peak_of(plan: Plan, rank: int = 0) -> dict[str, int]:
    return Hybrid(plan).memory_bytes(rank)


def within(found: float, expected: float, tolerance: float) -> bool:
    return abs(found - expected) <= tolerance * expected


@pytest.mark.parametrize("shape", SHAPES)
def test_autograd_keeps_what_is_said(shape: str) -> None:
    plan = plan_of(SHAPES[shape])
    (chunk,) = Hybrid(plan).account(0).chunks
    assert one_process(plan).saved_bytes() == sum(mark.kept for mark in chunk.footprints) + SCALAR_BYTES


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_gradients_and_state_are_torchs(shape: str, kind: str) -> None:
    plan = plan_of(SHAPES[shape], kind)
    process = one_process(plan)
    process.step(clear=False)
    parameters, gradients = bytes_of(process.layers)
    predicted = [entry.during for entry in Hybrid(plan).ledger(0)][-1]
    assert (predicted.parameters, predicted.gradients) == (parameters, gradients)
    assert within(predicted.optimizer_state, process.state_bytes(), 0.02) or predicted.optimizer_state == 0
    assert (predicted.optimizer_state == 0) == (kind == "sgd")


QUICK = [("wide", "adamw", 1, "none"), ("few samples", "sgd", 1, "none"), ("deep", "momentum", 4, "full")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in product(SHAPES, ("sgd", "momentum", "adamw"), (1, 4), ("none", "full"))
]


@pytest.mark.parametrize(("shape", "kind", "microbatches", "recompute"), CASES)
def test_the_peak_is_torchs(shape: str, kind: str, microbatches: int, recompute: str) -> None:
    plan = plan_of(SHAPES[shape], kind, microbatches=microbatches, recompute=recompute)
    process = one_process(plan)
    process.step()
    before = bytes_of(process.layers)[0] + process.state_bytes()
    measured = before + most_allocated_bytes(process.step)
    predicted = peak_of(plan)["total"]
    print(f"{(predicted - measured) / measured:+.3%}")
    assert within(predicted, measured, 0.10)
