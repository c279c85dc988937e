"""Plans whose workers have rows of their own, and remedies against uneven labels of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.small_plans import make, star

from twinstep.learning.data import digits
from twinstep.plan import Plan
from twinstep.programs.placement import share_out

ROWS, BATCH, WORKERS = 1797, 240, 6
WORKLOADS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "hidden": [16], "batch": BATCH},
    "logistic_regression": {"kind": "logistic_regression", "batch": BATCH},
}
METHODS = ["local_sgd", "gossip", "parameter_server"]
each_workload = pytest.mark.parametrize("workload", WORKLOADS)
each_method = pytest.mark.parametrize("method", METHODS)
each_placement = pytest.mark.parametrize("placement", ["hash", "consistent_hash", "random", "stratified", "by_label"])


def plan_of(
    remedy: str,
    placement: str = "by_label",
    workload: str = "mlp",
    method: str = "local_sgd",
    workers: int = WORKERS,
    **run: Any,
) -> tuple[Plan, Any]:
    servers = method == "parameter_server"
    return make(
        star(workers + servers),
        workload=WORKLOADS[workload],
        partition={"data": workers, "placement": placement, "remedy": remedy},
        sync={"method": method},
        communication={"library": "ideal"},
        run={"steps": 6, "warmup": 2, "compute": "emulated", "learning": True} | run,
    )


def counts(plan: Plan) -> NDArray[np.int64]:
    """Give how many rows of each label every worker has (workers, labels)."""
    targets = digits().targets
    return np.array([np.bincount(targets[share.rows], minlength=10) for share in share_out(plan)])
