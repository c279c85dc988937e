"""Small plans on small topologies, for tests of the simulator."""

from __future__ import annotations

from typing import Any

from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.sim import Simulation, simulate
from twinstep.sim.libraries import Library
from twinstep.topologies import Topology, load

RATES = {"peak": "100 GFLOP/s", "memory_bandwidth": "50 GB/s", "overhead": "5 us"}
LINK = {"bandwidth": "10 Gb/s", "latency": "5 us"}
FREE = {"bandwidth": "1000000 GB/s", "latency": "0.001 ns"}
"""A link that costs nothing to speak of."""
BYTES_PER_S = 10e9 / 8
HOP_S = 2 * 5e-6
"""From one host of a star to another."""
WIDE = {"kind": "mlp", "hidden": [512, 512], "batch": 240}
REGRESSION = {
    "kind": "linear_regression",
    "polynomial_degree": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.05},
}


def make(topology: dict[str, Any], **changes: Any) -> tuple[Plan, Topology]:
    """Make a plan of an MLP on devices that exist only in the model."""
    data: dict[str, Any] = {
        "workload": {"kind": "mlp", "hidden": [256, 128], "batch": 240},
        "topology": topology if "nodes" in topology else {"device": RATES} | topology,
        "run": {"steps": 4, "warmup": 1, "compute": "emulated"},
    }
    plan = Plan.model_validate(data | changes)
    return plan, load(plan.topology, folder=None)  # type: ignore[arg-type]


def predict(plan: Plan, topology: Topology, *, fold: bool = True, library: Library | None = None) -> Simulation:
    return simulate(plan, lower(plan), topology, None, fold=fold, library=library)


def star(hosts: int, devices: int = 1, **link: str) -> dict[str, Any]:
    """Describe hosts around a switch; only the links of the hosts cost anything."""
    return {
        "builder": "star",
        "hosts": hosts,
        "devices_per_host": devices,
        "link": LINK | link,
        "internal_link": FREE,
    }


def bench(
    topology: dict[str, Any], ranks: int, kind: str, size_bytes: int, *, times: int = 1, **communication: str
) -> tuple[Plan, Topology]:
    """Make a plan that does nothing but one collective."""
    return make(
        topology,
        workload={"kind": "collective", "collective": kind, "size": f"{size_bytes} B", "times": times},
        partition={"data": ranks},
        communication={"library": "ideal"} | communication,
        run={"steps": 1, "warmup": 0, "compute": "emulated"},
    )


def alone_s(
    topology: dict[str, Any],
    ranks: int,
    kind: str,
    size_bytes: int,
    model: Library | None = None,
    **communication: str,
) -> float:
    """Give the time of one collective when nothing else is active."""
    plan, built = bench(topology, ranks, kind, size_bytes, **communication)
    return predict(plan, built, library=model).timeline.step_time_s()
