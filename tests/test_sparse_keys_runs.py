"""Sparse keys in plans and in real runs: refusals, what `check` tells, and the executor against the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.emulation import needs_namespaces
from tests.small_plans import make, star
from tests.test_sparse_keys import FEATURES, LINES, assert_bytes_are_by_the_formula, losses

from twinstep import workflow
from twinstep.compare import structure_differences
from twinstep.exec.measure import measure
from twinstep.profile import Profile
from twinstep.programs import lower
from twinstep.scenario import load_scenario
from twinstep.sim import simulate

REFUSED = {
    "replicas": ({}, {"servers": {"count": 2, "sparse": True, "replicas": 2}}, {}, "sync.servers.replicas of 1"),
    "momentum": (
        {"optimizer": {"kind": "momentum"}},
        {"servers": {"sparse": True}},
        {},
        "workload.optimizer.kind sgd: momentum",
    ),
    "all-reduce": ({}, {"method": "all_reduce"}, {}, "sync.method parameter_server, not all_reduce"),
    "gossip": ({}, {"method": "gossip"}, {}, "sync.method parameter_server, not gossip"),
    "real compute": ({}, {}, {"run": {"compute": "real"}}, "run.compute emulated"),
    "digits": (
        {"kind": "mlp", "hidden": [4], "features": None, "optimizer": {"kind": "sgd"}},
        {"servers": {"sparse": True}},
        {},
        "workload.kind sparse_logistic_regression: a batch of mlp touches all",
    ),
    "few features": ({"features": 255}, {}, {}, "greater than or equal to 256"),
    "large batch": ({"batch": 20_001}, {}, {}, "less than or equal to 20000"),
    "rows of one's own": ({}, {}, {"partition": {"data": 2, "placement": "hash"}}, "partition.placement hash is for"),
    "features cut": ({}, {}, {"partition": {"features": 2}}, "partition.features is for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    workload, sync, changes, words = REFUSED[case]
    known = {key: value for key, value in (LINES | workload).items() if value is not None}
    with pytest.raises(ValidationError, match=words):
        make(star(4), workload=known, sync={"method": "parameter_server"} | sync, **changes)


def test_check_tells_what_batches_touch(run_cli: Any) -> None:
    ended = run_cli("check", "ps-sparse")
    assert ended.code == 0
    assert "parameters that a batch touches" in ended.out
    assert "of 65537" in ended.out


def scenario(folder: Path, sync: str, learning: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(
        f"workload: {{kind: sparse_logistic_regression, features: {FEATURES}, batch: 24}}\npartition: {{data: 3}}\n"
        f"sync: {{method: parameter_server, servers: {{count: 2, sparse: true}}, {sync}}}\n"
        "topology: {builder: one_host, devices: 5, device: {peak: 1 GFLOP/s, memory_bandwidth: 10 MB/s}}\n"
        f"run: {{steps: 8, warmup: 1, compute: emulated, jitter: 0.2, learning: {learning}, timeout: 30 s}}\n"
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sync", "learning"),
    [("mode: bulk_synchronous", "true"), ("mode: asynchronous", "true"), ("mode: asynchronous", "false")],
)
def test_the_executor_does_what_the_simulator_does(sync: str, learning: str, tmp_path: Path, profile: Profile) -> None:
    loaded = load_scenario(str(scenario(tmp_path, sync, learning)))
    measured = measure(loaded.plan, profile, lambda step: None).timeline
    predicted = simulate(loaded.plan, lower(loaded.plan), loaded.topology, profile).timeline
    assert structure_differences(predicted, measured) == ()
    assert_bytes_are_by_the_formula(loaded.plan, measured)
    assert len(losses(measured)) == (27 if learning == "true" else 0)
    if "bulk" in sync:
        assert losses(predicted) == pytest.approx(losses(measured), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timed
def test_sparse_keys_save_traffic_and_time_on_an_emulated_cluster(profile: Profile) -> None:
    """Loosely bounded, for a busy machine; structure and what is learnt are exact."""
    needs_namespaces()
    changes = ["run.steps=6", "run.warmup=1", "topology.link.bandwidth=100 Mb/s"]
    step_s = {}
    for is_sparse in ("true", "false"):
        loaded = load_scenario("ps-sparse", [*changes, f"sync.servers.sparse={is_sparse}"])
        predicted = workflow.predict(loaded, profile, every_rank=True).timeline
        measured = workflow.measure(loaded, profile, lambda share: None).timeline
        assert structure_differences(predicted, measured) == ()
        assert losses(predicted) == pytest.approx(losses(measured), rel=1e-5)
        step_s[is_sparse] = measured.step_time_s()
    assert step_s["true"] < step_s["false"] / 2
