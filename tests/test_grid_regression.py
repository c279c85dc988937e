"""Linear regression on a grid of samples and features: closed form of its time, and one process's solution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.small_plans import BYTES_PER_S, HOP_S, make, predict, star

from twinstep.learning.data import diabetes
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.plan import Plan
from twinstep.programs.placement import share_out
from twinstep.timeline import Timeline

DEGREE, SAMPLES = 3, 442
WORKLOAD = {
    "kind": "linear_regression",
    "polynomial_degree": DEGREE,
    "optimizer": {"kind": "sgd", "learning_rate": 0.01},
}
RING = {"library": "ideal", "algorithm": "ring"}
RUN = {"steps": 10, "warmup": 0, "compute": "emulated"}
GRIDS = [(1, 2), (1, 5), (2, 2), (3, 2), (2, 4)]


def plan_of(data: int, features: int, learning: bool = True, **partition: Any) -> tuple[Plan, Any]:
    return make(
        star(data * features),
        workload=WORKLOAD,
        partition={"data": data, "features": features} | partition,
        communication=RING,
        run=RUN | {"learning": learning},
    )


def losses(timeline: Timeline, data: int, features: int) -> list[list[float]]:
    """Give for each step what every row of the grid has observed; all ranks of a row observe the same."""
    by_step: dict[int, dict[int, float]] = {}
    for each in timeline.observations:
        known = by_step.setdefault(each.step, {}).setdefault(each.rank // features, each.value)
        assert known == each.value
    assert all(len(rows) == data for rows in by_step.values())
    return [[value for _, value in sorted(rows.items())] for _, rows in sorted(by_step.items())]


@pytest.mark.parametrize("placement", ["range", "hash", "random"])
@pytest.mark.parametrize(("data", "features"), GRIDS)
def test_a_grid_learns_what_one_process_learns(data: int, features: int, placement: str) -> None:
    plan, topology = plan_of(data, features, placement=placement)
    found = losses(predict(plan, topology).timeline, data, features)
    sizes = [len(share) for share in share_out(plan)]
    whole = [float(np.dot(values, sizes) / SAMPLES) for values in found]
    samples, model = diabetes(DEGREE), layers_of(plan.training)  # type: ignore[arg-type]
    values = model.initial(0)
    updates = Updates(plan.training.optimizer, model.elements)
    for loss in whole:
        expected, gradient = model.gradient(values, samples)
        assert loss == pytest.approx(expected / SAMPLES, rel=1e-5)
        updates.apply(values, gradient / np.float32(SAMPLES))
    assert whole[-1] < whole[0]


def test_a_step_costs_two_sums_beside_the_computation() -> None:
    """Products of 221 samples over two ranks, gradients of 143 weights and the bias over two."""
    timeline = predict(*plan_of(2, 2, learning=False)).timeline
    for operation, elements in (("all_reduce[pass=forward]", 221), ("all_reduce", 144)):
        span = next(s for s in timeline.spans if s.operation == operation and s.rank == 0 and s.step == 3)
        assert span.size_bytes == 4 * elements
        assert span.duration_s == pytest.approx(4 * elements / BYTES_PER_S + 2 * HOP_S, rel=0.02)
