"""Real workers that share memory, and plans of them from files: they do and learn what is predicted, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.command_line import Ended, assert_refused
from tests.test_shared_memory import SAME, by_worker, observed
from tests.test_transparency import train_alone

from twinstep.compare import structure_differences
from twinstep.errors import InputError
from twinstep.exec.measure import measure, measure_in
from twinstep.exec.worker import work
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import lower
from twinstep.progress import progress
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import Timeline

TEXT = """\
workload: {workload}
partition: {{data: {workers}}}
sync: {sync}
topology: {topology}
run: {run}
"""
MLP = "{kind: mlp, hidden: [48, 32], batch: 64, optimizer: {kind: sgd, learning_rate: 0.1}}"
GPT = "{kind: gpt, layers: 2, heads: 2, width: 32, context: 16, batch: 8, optimizer: {kind: sgd, learning_rate: 0.05}}"
LINEAR = "{kind: linear_regression, polynomial_degree: 2, optimizer: {kind: sgd, learning_rate: 0.05}}"


def file_of(folder: Path, workload: str, workers: int, **changes: str) -> Path:
    """Write a scenario of real compute."""
    values = {
        "sync": "{method: shared_memory, mode: asynchronous}",
        "topology": f"{{builder: one_host, devices: {workers}, device: cpu}}",
        "run": "{steps: 30, warmup: 2, seed: 3}",
    }
    path = folder / "plan.yaml"
    path.write_text(TEXT.format(workload=workload, workers=workers, **values | changes))
    return path


def test_workers_of_two_hosts_are_refused(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    rates = "device: {peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s}"
    topology = f"{{builder: star, hosts: 2, {rates}, link: {{bandwidth: 1 Gb/s, latency: 1 us}}}}"
    path = file_of(tmp_path, MLP, 2, topology=topology, run="{compute: emulated}")
    assert_refused(run_cli("predict", path), f"{path}:3: ", "sync.method shared_memory", "on 2", "partition.data")


def test_workers_that_a_launcher_has_started_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is shared_memory, which ranks"):
        work("hogwild", tmp_path)


def test_gpus_are_refused(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = file_of(tmp_path, MLP, 2, topology="{builder: one_host, devices: 2, device: cuda}")
    assert_refused(run_cli("predict", path), f"{path}:3: ", "sync.method shared_memory", "topology.device to cpu")


def test_a_profile_without_the_copy_predicts_by_the_roofline(tmp_path: Path, profile: Profile) -> None:
    curves = profile.devices["cpu"]
    kernels = {name: curve for name, curve in curves.kernels.items() if name != "copy"}
    old = profile.model_copy(update={"devices": {"cpu": curves.model_copy(update={"kernels": kernels})}})
    scenario = load_scenario(str(file_of(tmp_path, MLP, 2)))
    found = simulate(scenario.plan, lower(scenario.plan), scenario.topology, old).timeline
    (read, *_) = [span for span in found.spans if span.operation == "read"]
    elements = 64 * 48 + 48 + 48 * 32 + 32 + 32 * 10 + 10
    expected_s = 8 * elements / curves.bandwidth_bytes_per_s + curves.launch_s
    assert read.duration_s == pytest.approx(expected_s, rel=1e-6)


def plan_and_prediction(path: Path, profile: Profile) -> tuple[Plan, Timeline]:
    scenario = load_scenario(str(path))
    return scenario.plan, simulate(scenario.plan, lower(scenario.plan), scenario.topology, profile).timeline


@pytest.mark.slow
@pytest.mark.parametrize("workload", [LINEAR, MLP, GPT])
def test_one_real_worker_learns_what_torch_learns(workload: str, tmp_path: Path) -> None:
    plan = load_scenario(str(file_of(tmp_path, workload, 1))).plan
    alone = train_alone(plan)
    measured = measure_in(tmp_path, plan, None, lambda step: None)
    assert measured.losses == pytest.approx(alone.losses.tolist(), rel=1e-5)
    assert observed(measured.timeline, "loss") == pytest.approx(alone.losses.tolist(), rel=1e-5)
    found = torch.load(tmp_path / "parameters.pt", weights_only=True)
    assert found.keys() == alone.parameters.keys()
    whole = float(torch.cat([each.ravel() for each in alone.parameters.values()]).norm())
    for name, parameter in alone.parameters.items():
        assert float((found[name] - parameter).abs().max()) <= SAME * whole, name


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("workload", [LINEAR, MLP, GPT])
def test_real_workers_train_together(workload: str, tmp_path: Path, profile: Profile) -> None:
    """Two workers' updates are about one step on the whole batch, a step late."""
    plan, predicted = plan_and_prediction(file_of(tmp_path, workload, 2), profile)
    synchronous = train_alone(plan).losses
    measured = measure(plan, None, lambda step: None)
    assert structure_differences(predicted, measured.timeline) == ()
    assert_staleness_is_possible(measured.timeline, workers=2, steps=32)
    learnt = float(synchronous[0] - synchronous[-1])
    assert learnt > 0
    assert measured.losses[0] == pytest.approx(float(synchronous[0]), rel=0.1)
    assert measured.losses[-1] == pytest.approx(float(synchronous[-1]), abs=0.25 * learnt)
    assert progress(measured.timeline).loss_by_step[-1] == pytest.approx(measured.losses[-1], rel=0.1)


def assert_staleness_is_possible(timeline: Timeline, workers: int, steps: int) -> None:
    """A worker's reads and updates alternate, so no update of others is counted twice for it."""
    found = by_worker(timeline, "staleness")
    assert len(found) == workers * steps
    assert min(found.values()) >= 0
    for rank in range(workers):
        assert sum(found[rank, step] for step in range(steps)) <= (workers - 1) * steps
    assert sum(found.values()) > 0


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("learning", ["true", "false"])
def test_the_executor_does_what_the_simulator_does(learning: str, tmp_path: Path, profile: Profile) -> None:
    topology = "{builder: one_host, devices: 3, device: {peak: 2 MFLOP/s, memory_bandwidth: 10 GB/s}}"
    run = f"{{steps: 30, warmup: 2, compute: emulated, jitter: 0.2, learning: {learning}, timeout: 30 s}}"
    path = file_of(tmp_path, LINEAR, 3, topology=topology, run=run)
    plan, predicted = plan_and_prediction(path, profile)
    measured = measure(plan, profile, lambda step: None).timeline
    assert structure_differences(predicted, measured) == ()
    for name in ("loss", "staleness"):
        assert by_worker(predicted, name).keys() == by_worker(measured, name).keys()
    assert_staleness_is_possible(measured, workers=3, steps=32)
    one, other = progress(predicted), progress(measured)
    assert other.mean_staleness == pytest.approx(one.mean_staleness, abs=0.5)
    if learning == "true":
        assert other.loss_by_step[-1] == pytest.approx(one.loss_by_step[-1], rel=0.1)
        assert other.loss_by_step[-1] < 0.9 * other.loss_by_step[0]


@pytest.mark.slow
def test_one_emulated_worker_learns_what_the_simulated_one_learns(tmp_path: Path, profile: Profile) -> None:
    topology = "{builder: one_host, devices: 1, device: {peak: 1 GFLOP/s, memory_bandwidth: 10 GB/s}}"
    path = file_of(tmp_path, LINEAR, 1, topology=topology, run="{steps: 12, compute: emulated, learning: true}")
    plan, predicted = plan_and_prediction(path, profile)
    measured = measure(plan, profile, lambda step: None).timeline
    assert observed(measured, "loss") == pytest.approx(observed(predicted, "loss"), rel=SAME)
