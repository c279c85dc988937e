"""Training through shared memory: staleness and what is learnt, against the record and plain gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from tests.small_plans import RATES, make

from twinstep.learning.data import diabetes
from twinstep.programs import SharedMemory, lower, shards
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
