"""Regressions on a grid of samples and features: closed form of their time, and one process's solution."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.small_plans import BYTES_PER_S, HOP_S, make, predict, star

from twinstep.exec.measure import measure_in
from twinstep.learning import Share
from twinstep.learning.data import diabetes
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import grid_regression
from twinstep.programs.placement import share_out
from twinstep.scenario import load_scenario
from twinstep.timeline import Timeline

DEGREE, SAMPLES = 3, 442
WORKLOAD = {
    "kind": "linear_regression",
    "polynomial_degree": DEGREE,
    "optimizer": {"kind": "sgd", "learning_rate": 0.01},
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "linear_regression": WORKLOAD,
    "logistic_regression": {"kind": "logistic_regression", "batch": 120},
}
LARGEST_DIFFERENCE = 1e-6
"""Of a parameter, as a part of the largest: what sums in another order make of single precision."""
RING = {"library": "ideal", "algorithm": "ring"}
RUN = {"steps": 10, "warmup": 0, "compute": "emulated"}
GRIDS = [(1, 2), (1, 5), (2, 2), (3, 2), (2, 4)]


def plan_of(
    data: int, features: int, learning: bool = True, workload: dict[str, Any] = WORKLOAD, **partition: Any
) -> tuple[Plan, Any]:
    return make(
        star(data * features),
        workload=workload,
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


def test_partial_logits_of_all_classes_are_summed_and_a_column_of_the_batch_is_loaded() -> None:
    """60 samples of 10 classes over two ranks; of 32 features and the bias over two."""
    run = RUN | {"learning": False}
    plan, topology = make(
        star(4),
        workload=WORKLOADS["logistic_regression"],
        partition={"data": 2, "features": 2},
        communication=RING,
        run=run,
    )
    spans = [span for span in predict(plan, topology).timeline.spans if (span.rank, span.step) == (0, 3)]
    sizes = {span.operation: span.size_bytes for span in spans if span.phase == "communication"}
    assert sizes == {"all_reduce[pass=forward]": 4 * 60 * 10, "all_reduce": 4 * 33 * 10}
    load = next(span for span in spans if span.phase == "load")
    assert load.duration_s == pytest.approx(2 * 4 * 60 * 32 / 50e9 + 5e-6)


def test_more_parts_than_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"partition.features \(65\) is more than the features"):
        make(star(65), workload=WORKLOADS["logistic_regression"], partition={"features": 65}, run=RUN)


def alone(plan: Plan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the weights (outputs, features) and the bias (outputs,) that one process finds."""
    workload: Any = plan.training
    model, samples = layers_of(workload), Samples(plan, 0, Share(range(workload.samples)))
    values = model.initial(plan.run.seed)
    updates = Updates(workload.optimizer, model.elements)
    for step in range(plan.total_steps):
        _, gradient = model.gradient(values, samples.of(step))
        updates.apply(values, gradient / np.float32(workload.samples))
    return values[: -workload.outputs].reshape(workload.outputs, -1), values[-workload.outputs :]


def assert_finds_the_same(found: list[NDArray[np.float32]], plan: Plan) -> None:
    """Compare the parts of the grid's ranks; the bias is the last of what a rank of the first column has."""
    weights, bias = alone(plan)
    largest = max(float(np.abs(weights).max()), float(np.abs(bias).max()))
    features = plan.partition.features
    for first in range(0, plan.ranks, features):
        row = found[first : first + features]
        whole = np.concatenate([row[0][:, :-1], *row[1:]], axis=1)
        assert whole.shape == weights.shape
        assert float(np.abs(whole - weights).max()) <= LARGEST_DIFFERENCE * largest
        assert float(np.abs(row[0][:, -1] - bias).max()) <= LARGEST_DIFFERENCE * largest


@pytest.mark.parametrize("kind", WORKLOADS)
@pytest.mark.parametrize(("data", "features"), GRIDS)
def test_a_grid_finds_the_parameters_of_one_process(
    data: int, features: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make_learner = grid_regression.grid_learner

    def kept(*arguments: Any) -> Any:
        made.append(make_learner(*arguments))
        return made[-1]

    monkeypatch.setattr(grid_regression, "grid_learner", kept)
    plan, topology = plan_of(data, features, workload=WORKLOADS[kind])
    predict(plan, topology)
    learnt = [each for each in made if hasattr(each, "_weights")]
    assert len(learnt) == plan.ranks
    assert_finds_the_same([each._weights for each in learnt], plan)


# A supervisor whose ranks leave behind what they have learnt.
SUPERVISOR = """\
import numpy as np
from twinstep.exec import supervisor
from twinstep.programs import grid_regression

run_rank, grid_learner = supervisor.run_rank, grid_regression.grid_learner
learners = []

def keep(*arguments):
    learners.append(grid_learner(*arguments))
    return learners[-1]

def run_and_save(job, rank, *others, **named):
    grid_regression.grid_learner = keep
    result = run_rank(job, rank, *others, **named)
    np.save({folder!r} + f"/weights-{{rank}}.npy", learners[-1]._weights)
    return result

supervisor.run_rank = run_and_save
main = supervisor.main
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKLOADS)
@pytest.mark.parametrize(("data", "features"), [(1, 3), (2, 2)])
def test_real_ranks_find_the_parameters_of_one_process(
    data: int, features: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    (tmp_path / "saving_supervisor.py").write_text(SUPERVISOR.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    path = tmp_path / "plan.yaml"
    options = {
        "linear_regression": "polynomial_degree: 3, optimizer: {kind: sgd, learning_rate: 0.01}",
        "logistic_regression": "batch: 120",
    }
    path.write_text(
        f"workload: {{kind: {kind}, {options[kind]}}}\npartition: {{data: {data}, features: {features}}}\n"
        f"topology: {{builder: one_host, devices: {data * features}, device: {{peak: 1 GFLOP/s, "
        "memory_bandwidth: 10 MB/s}}\nrun: {steps: 8, warmup: 2, compute: emulated, learning: true, timeout: 30 s}\n"
    )
    plan = load_scenario(str(path)).plan
    folder = tmp_path / "run"
    folder.mkdir()
    measure_in(folder, plan, profile, lambda step: None, supervisor="saving_supervisor")
    assert_finds_the_same([np.load(tmp_path / f"weights-{rank}.npy") for rank in range(plan.ranks)], plan)
