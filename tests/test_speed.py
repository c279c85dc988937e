"""Speed: what a simulation costs grows with what happens in it, not with how many could."""

from __future__ import annotations

import statistics
import time

import pytest
from tests.small_plans import make, predict, star

REGRESSION = {"kind": "linear_regression", "polynomial_degree": 2, "optimizer": {"kind": "sgd"}}


def cpu_s_per_effect(workers: int, steps: int) -> float:
    """Predict asynchronous workers with one parameter server."""
    plan, topology = make(
        star(workers + 1),
        workload=REGRESSION,
        partition={"data": workers},
        sync={"method": "parameter_server", "mode": "asynchronous"},
        communication={"library": "ideal"},
        run={"steps": steps, "warmup": 0, "compute": "emulated"},
    )
    before_s = time.process_time()
    simulation = predict(plan, topology)
    return (time.process_time() - before_s) / simulation.effects


@pytest.mark.slow
@pytest.mark.timed
def test_an_effect_costs_as_much_among_many_workers_as_among_few() -> None:
    """Anything that looks at all workers would show among sixteen times as many. Machines drift, so runs are paired."""
    ratios = [cpu_s_per_effect(256, 40) / cpu_s_per_effect(16, 640) for _ in range(3)]
    assert statistics.median(ratios) < 1.9
