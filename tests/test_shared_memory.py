"""Training through shared memory: staleness and what is learnt, against the record and plain gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tests.command_line import Ended, assert_refused
from tests.small_plans import RATES, make
from tests.test_transparency import train_alone

from twinstep.compare import structure_differences
from twinstep.errors import InputError
from twinstep.exec.measure import measure, measure_in
from twinstep.exec.worker import work
from twinstep.learning.data import diabetes
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import SharedMemory, lower, shards
from twinstep.progress import progress
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import Timeline

RATE = 0.05
REGRESSION = {
    "kind": "linear_regression",
    "polynomial_degree": 2,
    "optimizer": {"kind": "sgd", "learning_rate": RATE},
}
SHARED = {"method": "shared_memory", "mode": "asynchronous"}
STEPS = 12
RUN: dict[str, Any] = {"steps": STEPS, "warmup": 0, "compute": "emulated", "learning": True}
SAME = 1e-6
"""Largest difference of parameters, as a part of the norm of all."""

Floats = NDArray[np.float32]


def one_host(workers: int) -> dict[str, Any]:
    return {"builder": "one_host", "devices": workers, "device": RATES}


def shared(workers: int, **run: Any) -> tuple[SharedMemory, Timeline]:
    """Predict workers that share memory; give the programs, whose memory is what they have learnt, too."""
    workload = run.pop("workload", REGRESSION)
    plan, topology = make(one_host(workers), workload=workload, partition={"data": workers}, sync=SHARED, run=RUN | run)
    programs = lower(plan)
    assert isinstance(programs, SharedMemory)
    return programs, simulate(plan, programs, topology, None).timeline


def observed(timeline: Timeline, name: str) -> list[float]:
    return [each.value for each in timeline.observations if each.name == name]


def by_worker(timeline: Timeline, name: str) -> dict[tuple[int, int], float]:
    return {(each.rank, each.step): each.value for each in timeline.observations if each.name == name}


def loss_and_slope(parameters: Floats, rows: range) -> tuple[float, Floats]:
    """Give the mean squared error of some rows, and their part of the gradient of the mean of all."""
    data = diabetes(2)
    inputs, targets = data.inputs[rows.start : rows.stop], data.targets[rows.start : rows.stop, 0]
    residual = inputs @ parameters[:-1] + parameters[-1] - targets
    slope = 2 * np.append(inputs.T @ residual, residual.sum()) / len(data.targets)
    return float(np.square(residual).mean()), slope.astype(np.float32)


def assert_same(found: Floats, expected: Floats) -> None:
    assert np.abs(found - expected).max() <= SAME * np.linalg.norm(expected)


def test_one_worker_is_plain_gradient_descent() -> None:
    programs, timeline = shared(1)
    parameters = np.zeros(66, np.float32)
    losses = []
    for _ in range(STEPS):
        loss, slope = loss_and_slope(parameters, range(442))
        losses.append(loss)
        parameters = parameters - np.float32(RATE) * slope
    assert_same(programs.memory.parameters, parameters)
    assert observed(timeline, "loss") == pytest.approx(losses, rel=SAME)
    assert set(observed(timeline, "staleness")) == {0}


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_at_equal_pace_everybody_else_updates_between_read_and_update(workers: int, learning: bool) -> None:
    """Regression cuts 442 samples unevenly; of 120 images all have equally many."""
    workload = {"kind": "mlp", "hidden": [16], "batch": 120, "optimizer": {"kind": "sgd", "learning_rate": 0.1}}
    _, timeline = shared(workers, workload=workload, learning=learning)
    found = observed(timeline, "staleness")
    assert found[:workers] == list(range(workers))
    assert found[workers:] == [workers - 1] * workers * (STEPS - 1)


@pytest.mark.parametrize("slowdown", [2.5, 7.25])
def test_a_slow_worker_misses_what_a_fast_one_does_meanwhile(slowdown: float) -> None:
    """Of each slow step the fast worker makes `slowdown` updates, and of its own steps one in as many finds one."""
    run = {"steps": 400, "stragglers": [{"rank": 1, "slowdown": slowdown}], "learning": False}
    workload = {"kind": "mlp", "hidden": [16], "batch": 120, "optimizer": {"kind": "sgd"}}
    _, timeline = shared(2, workload=workload, **run)
    both = int(400 / slowdown)
    found = by_worker(timeline, "staleness")
    slow = [found[1, step] for step in range(both)]
    fast = [found[0, step] for step in range(400)]
    assert sum(slow) == pytest.approx(both * slowdown, abs=1)
    assert set(slow) == {int(slowdown), int(slowdown) + 1}
    assert sum(fast) == pytest.approx(both, abs=1)
    assert set(fast) == {0, 1}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_is_learnt_follows_from_the_times_of_reads_and_updates(workers: int) -> None:
    """All updates land, each computed from the parameters at its read, and staleness counts those in between."""
    programs, timeline = shared(workers, jitter=0.5)
    events = [(span.start_s, 1, span.rank, span.step) for span in timeline.spans if span.operation == "read"]
    events += [(span.end_s, 0, span.rank, span.step) for span in timeline.spans if span.operation == "optimizer"]
    assert len(events) == 2 * workers * STEPS
    rows = shards(442, workers)
    parameters, landed = np.zeros(66, np.float32), np.zeros(66)
    copies, seen, updates = {}, {}, 0
    losses, staleness = {}, {}
    for _, is_read, rank, step in sorted(events):
        if is_read:
            copies[rank], seen[rank] = parameters.copy(), updates
            continue
        losses[rank, step], slope = loss_and_slope(copies[rank], rows[rank])
        staleness[rank, step] = updates - seen[rank]
        parameters = parameters - np.float32(RATE) * slope
        landed += slope
        updates += 1
    assert by_worker(timeline, "staleness") == staleness
    assert by_worker(timeline, "loss") == pytest.approx(losses, rel=1e-5)
    assert_same(programs.memory.parameters, parameters)
    assert_same(programs.memory.parameters, (-RATE * landed).astype(np.float32))
    assert workers == 1 or len(set(staleness.values())) > 2


def test_a_rate_of_nothing_changes_nothing() -> None:
    """A learning rate must be positive; this one is less than any parameter's rounding."""
    optimizer = {"kind": "sgd", "learning_rate": 1e-30}
    programs, timeline = shared(3, workload={"kind": "mlp", "hidden": [8], "batch": 30, "optimizer": optimizer})
    before, _ = shared(3, workload={"kind": "mlp", "hidden": [8], "batch": 30, "optimizer": optimizer}, steps=1)
    assert np.array_equal(programs.memory.parameters, before.memory.parameters)
    assert np.any(programs.memory.parameters)
    assert sum(observed(timeline, "staleness")) > 0


def test_a_prediction_is_the_same_every_time() -> None:
    (_, one), (_, other) = shared(4, jitter=0.4), shared(4, jitter=0.4)
    assert one == other


def test_looking_at_a_program_does_not_run_it() -> None:
    """A dry run has a memory of its own, also where nothing is learnt."""
    for learning in (True, False):
        programs, _ = shared(2, learning=learning)
        before = programs.memory.updates_of_others(0), programs.memory.parameters.copy()
        list(programs.outline.program(1))
        assert programs.memory.updates_of_others(0) == before[0] == STEPS
        assert np.array_equal(programs.memory.parameters, before[1])


def test_each_worker_has_a_copy_beside_what_all_share() -> None:
    programs, _ = shared(2)
    parts = programs.memory_bytes(0)
    assert parts["shared_parameters"] == parts["parameters"] == 66 * 4
    assert parts["total"] == sum(size for name, size in parts.items() if name != "total")


@pytest.mark.parametrize(
    ("sync", "workload", "words"),
    [
        (SHARED | {"mode": "bulk_synchronous"}, REGRESSION, "needs sync.mode asynchronous"),
        (SHARED | {"mode": "stale_synchronous", "bound": 1}, REGRESSION, "needs sync.mode asynchronous"),
        (SHARED | {"every": 2}, REGRESSION, "sync.every applies to"),
        (SHARED | {"servers": {"count": 2}}, REGRESSION, "sync.servers applies to"),
        (SHARED, REGRESSION | {"optimizer": {"kind": "momentum"}}, "needs workload.optimizer.kind sgd: momentum"),
        (SHARED, {"kind": "collective", "collective": "barrier", "size": "4 B"}, "needs a workload that trains"),
    ],
)
def test_what_shared_memory_cannot_do_is_refused(sync: dict[str, Any], workload: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(one_host(2), workload=workload, partition={"data": 2}, sync=sync, run={"compute": "emulated"})


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
