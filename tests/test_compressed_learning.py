"""What is learnt by all-reduce where compute is emulated, compressed or not, in the simulator and by real ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small_plans import make, predict, star

from twinstep.compare import structure_differences
from twinstep.exec.measure import measure
from twinstep.learning.data import DataSet, Floats, digits, drawn
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.plan import Plan
from twinstep.programs import data_parallel, lower, parameter_server
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import Timeline

MLP = {"kind": "mlp", "hidden": [48], "batch": 60, "optimizer": {"kind": "sgd", "learning_rate": 0.3}}
RUN = {"steps": 12, "warmup": 0, "compute": "emulated", "learning": True}
KINDS = {
    "none": "kind: none",
    "fp16": "kind: fp16",
    "bf16": "kind: bf16",
    "int8": "kind: int8",
    "top_k": "kind: top_k, ratio: 0.25",
    "random_k": "kind: random_k, ratio: 0.25",
    "power_sgd": "kind: power_sgd, rank: 2",
}


def planned(sync: dict[str, Any], hosts: int = 3, **changes: Any) -> Any:
    known: dict[str, Any] = {"workload": MLP, "run": RUN, "communication": {"library": "ideal"}} | changes
    return make(star(hosts), partition={"data": 3}, sync=sync, **known)


def losses(timeline: Timeline) -> list[float]:
    found = sorted((each.step, each.rank, each.value) for each in timeline.observations if each.name == "loss")
    return [value for *_, value in found]


def kept(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """Keep the learners that a program makes."""
    make_learner: Callable[..., Any] = getattr(module, name)
    found: list[Any] = []

    def keep(*arguments: Any) -> Any:
        found.append(make_learner(*arguments))
        return found[-1]

    monkeypatch.setattr(module, name, keep)
    return found


def alone(plan: Plan) -> tuple[list[float], Floats]:
    """Train in one process: the mean loss of each rank's samples in every step, and the parameters at the end."""
    data, model = digits(), layers_of(plan.training)  # type: ignore[arg-type]
    values = model.initial(plan.run.seed)
    updates = Updates(plan.training.optimizer, model.elements)
    found = []
    for step in range(plan.total_steps):
        rows = drawn(len(data.inputs), plan.run.seed, step)[: plan.training.samples]
        found += [model.gradient(values, DataSet(data.inputs[r], data.targets[r]))[0] / 20 for r in np.split(rows, 3)]
        gradient = model.gradient(values, DataSet(data.inputs[rows], data.targets[rows]))[1]
        updates.apply(values, gradient / np.float32(plan.training.samples))
    return found, values


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("bucket", ["1 KiB", "25 MiB"])
def test_all_reduce_learns_what_one_process_and_what_servers_learn(
    bucket: str, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = kept(monkeypatch, data_parallel, "replica_learner")
    servers = kept(monkeypatch, parameter_server, "server_learner")
    plan, topology = planned({"bucket": bucket, "overlap": overlap})
    timeline = predict(plan, topology).timeline
    expected_losses, expected = alone(plan)
    assert expected_losses[-1] < 0.95 * expected_losses[0]
    assert losses(timeline) == pytest.approx(expected_losses, rel=1e-5)
    predict(*planned({"method": "parameter_server"}, hosts=4))
    learners = [learner for learner in replicas if hasattr(learner, "_values")]
    (server,) = [learner for learner in servers if hasattr(learner, "_values")]
    assert len(learners) == 3
    for learner in learners:
        difference = max(np.abs(learner._values - other).max() for other in (expected, server._values))
        assert difference <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
def test_learning_leaves_the_times_alone(kind: str) -> None:
    sync = {"bucket": "1 KiB", "compression": load_yaml(KINDS[kind])}
    learnt, still = (predict(*planned(sync, run=RUN | {"learning": on})).timeline for on in (True, False))
    assert learnt.step_time_s() == pytest.approx(still.step_time_s(), rel=1e-9)
    assert learnt.phases_s() == pytest.approx(still.phases_s(), rel=1e-6, abs=1e-12)


def load_yaml(options: str) -> dict[str, Any]:
    pairs = (pair.split(": ") for pair in options.split(", "))
    return {key: value if key == "kind" else float(value) if "." in value else int(value) for key, value in pairs}


LONG = RUN | {"steps": 60}
CLOSENESS = {"fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""How far the loss may be from that of uncompressed gradients: rounding to 11, 8 and 8 bits."""


@cache
def plain_losses(method: str) -> list[float]:
    """Train without compression."""
    return losses(predict(*planned({"method": method}, hosts=4, run=LONG)).timeline)


@pytest.mark.parametrize("method", ["all_reduce", "parameter_server"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_compressed_gradients_learn(kind: str, method: str) -> None:
    if (kind, method) == ("power_sgd", "parameter_server"):
        pytest.skip("parameter servers make no sums over all ranks")
    plain = plain_losses(method)
    sync = {"method": method, "compression": load_yaml(KINDS[kind])}
    found = losses(predict(*planned(sync, hosts=4, run=LONG)).timeline)
    assert found != plain
    assert np.mean(found[-9:]) < 0.8 * np.mean(found[:9])
    if kind in CLOSENESS:
        assert found == pytest.approx(plain, rel=CLOSENESS[kind])


def test_keeping_everything_loses_nothing() -> None:
    plain = losses(predict(*planned({})).timeline)
    for kind in ("top_k", "random_k"):
        for feedback in (True, False):
            options = {"kind": kind, "ratio": 1.0, "error_feedback": feedback}
            assert losses(predict(*planned({"compression": options})).timeline) == pytest.approx(plain, rel=1e-5)


SAME = {"fp16": 1e-3, "bf16": 1e-2}
"""Sums of 16-bit numbers depend on their order."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "all_reduce") for kind in ("none", "fp16", "int8", "top_k", "power_sgd")),
        *((kind, "parameter_server") for kind in ("bf16", "random_k", "top_k")),
    ],
)
def test_the_executor_learns_what_the_simulator_learns(kind: str, method: str, tmp_path: Path, profile: Any) -> None:
    path = tmp_path / "plan.yaml"
    servers, bucket = ("servers: {count: 2}", "") if method == "parameter_server" else ("", "bucket: 2 KiB")
    path.write_text(
        "workload: {kind: mlp, hidden: [33], batch: 60, optimizer: {kind: sgd, learning_rate: 0.1}}\n"
        f"partition: {{data: 3}}\nsync: {{method: {method}, {servers}{bucket}, compression: {{{KINDS[kind]}}}}}\n"
        "topology: {builder: one_host, devices: 5, device: {peak: 1 GFLOP/s, memory_bandwidth: 100 MB/s}}\n"
        "run: {steps: 8, warmup: 1, compute: emulated, learning: true, timeout: 30 s}\n"
    )
    loaded = load_scenario(str(path))
    measured = measure(loaded.plan, profile, lambda step: None).timeline
    predicted = simulate(loaded.plan, lower(loaded.plan), loaded.topology, profile).timeline
    assert structure_differences(predicted, measured) == ()
    assert losses(predicted) == pytest.approx(losses(measured), rel=SAME.get(kind, 1e-5))
