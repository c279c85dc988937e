"""Remedies against uneven labels: what is drawn, what it weighs, and what is learnt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.placed_plans import BATCH, ROWS, WORKERS, each_method, each_placement, each_workload, plan_of
from tests.small_plans import make, predict, star

from twinstep.learning.data import DataSet, digits
from twinstep.learning.models import layers_of
from twinstep.learning.samples import Samples, class_weights
from twinstep.programs.placement import share_out
from twinstep.progress import progress
from twinstep.timeline import Timeline
from twinstep.workloads import Classifier


@each_placement
@each_workload
def test_resampling_draws_the_labels_of_a_worker_equally_often(placement: str, workload: str) -> None:
    """After any number of steps the counts of two labels differ by one at most, also from any step on."""
    plan, _ = plan_of("resample", placement, workload)
    for rank, share in enumerate(share_out(plan)):
        samples = Samples(plan, rank, share)
        present = set(digits().targets[share.rows].tolist())
        for steps in (range(1), range(7), range(3, 12)):
            drawn = Counter(label for step in steps for label in samples.of(step).targets.tolist())
            assert set(drawn) == present
            assert max(drawn.values()) - min(drawn.values()) <= 1


def test_resampling_draws_all_rows_of_a_label_before_one_comes_again() -> None:
    plan, _ = plan_of("resample", "hash")
    share = share_out(plan)[0]
    samples = Samples(plan, 0, share)
    drawn = Counter(row for step in range(40) for row in samples._rows(step).tolist())
    assert set(drawn) == set(share.rows.tolist())  # type: ignore[union-attr]
    targets = digits().targets
    for label in range(10):
        often = [times for row, times in drawn.items() if targets[row] == label]
        assert max(often) - min(often) <= 1


@each_placement
def test_resampling_makes_batches_equal_where_shards_are_not(placement: str) -> None:
    assert {len(share) for share in share_out(plan_of("resample", placement)[0])} == {BATCH // WORKERS}
    uneven = {len(share) for share in share_out(plan_of("none", "consistent_hash")[0])}
    assert len(uneven) > 1


@each_workload
def test_class_weights_give_a_skewed_shard_the_gradient_of_the_whole_data_set(workload: str) -> None:
    """A shard that has each image of label c (c + 1) times: its labels are skewed, what is within each is not."""
    plan, _ = plan_of("class_weights", workload=workload)
    data = digits()
    rows = np.repeat(np.arange(ROWS), data.targets + 1)
    skewed = DataSet(data.inputs[rows], data.targets[rows])
    weights = class_weights(data.targets, skewed.targets)[skewed.targets]
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    assert isinstance(plan.workload, Classifier)
    model = layers_of(plan.workload)
    values = np.random.default_rng(1).normal(0, 0.1, model.elements).astype(np.float32)
    loss, gradient = model.gradient(values, data)
    unweighted, _ = model.gradient(values, skewed)
    found, slopes = model.gradient(values, skewed, weights)
    assert found / len(rows) == pytest.approx(loss / ROWS, rel=1e-5)
    assert unweighted / len(rows) != pytest.approx(loss / ROWS, rel=1e-3)
    scale = float(np.abs(gradient).max()) / ROWS
    assert slopes / len(rows) == pytest.approx(gradient / ROWS, abs=1e-5 * scale)


def test_class_weights_of_a_worker_that_lacks_labels_have_a_mean_of_one_on_what_it_has() -> None:
    plan, _ = plan_of("class_weights")
    data = digits()
    whole = np.bincount(data.targets) / ROWS
    for rank, share in enumerate(share_out(plan)):
        samples = Samples(plan, rank, share)
        own = DataSet(data.inputs[share.rows], data.targets[share.rows])
        weights = samples.weights(own)
        assert weights is not None
        assert weights.mean() == pytest.approx(1, rel=1e-5)
        sums = np.bincount(own.targets.astype(np.int64), weights, minlength=10)
        present = sums > 0
        assert not present.all()
        assert sums[present] / sums.sum() == pytest.approx(whole[present] / whole[present].sum(), rel=1e-5)


def test_without_class_weights_all_samples_weigh_the_same() -> None:
    plan, _ = plan_of("none")
    samples = Samples(plan, 0, share_out(plan)[0])
    assert samples.weights(samples.of(0)) is None


def whole_loss(timeline: Timeline) -> float:
    return progress(timeline).whole_loss_by_time[-1].loss


@each_workload
def test_workers_by_label_learn_less_of_the_whole_than_after_an_exchange(workload: str) -> None:
    """Where workers agree in every step, the mean gradient is that of the whole anyway: not so every tenth step."""
    found = {}
    for remedy in ("none", "resample", "class_weights", "repartition"):
        plan, topology = plan_of(remedy, workload=workload, workers=5, steps=38)
        seldom = plan.model_copy(update={"sync": plan.sync.model_copy(update={"every": 10})})
        found[remedy] = whole_loss(predict(seldom, topology).timeline)
    assert found["repartition"] < min(found["none"], found["resample"], found["class_weights"])
    assert len(set(found.values())) == 4


@each_method
@pytest.mark.parametrize("remedy", ["resample", "class_weights", "repartition"])
def test_every_method_learns_with_every_remedy(remedy: str, method: str) -> None:
    found = progress(predict(*plan_of(remedy, method=method)).timeline)
    assert found.whole_loss_by_time[-1].loss < found.whole_loss_by_time[0].loss


def test_the_loss_on_all_samples_is_that_of_one_process() -> None:
    """One worker with all rows: what it observes is the loss of its model, before its steps and after the last."""
    plan, topology = plan_of("none", "random", workload="logistic_regression", workers=1)
    found = progress(predict(plan, topology).timeline).whole_loss_by_time
    assert len(found) == plan.total_steps + 1
    assert found[0].loss == pytest.approx(np.log(10), rel=1e-6)
    assert found[-1].loss < found[0].loss


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"partition": {"data": 2, "remedy": "resample"}}, "set partition.placement"),
        ({"workload": {"kind": "linear_regression"}, "placement": "hash"}, "needs labels"),
        ({"sync": {"method": "all_reduce"}}, "needs sync.method parameter_server, local_sgd or gossip"),
        ({"remedy": "repartition", "run": {"warmup": 0, "compute": "emulated"}}, "set run.warmup to 1 or more"),
        ({"remedy": "class_weights", "run": {"compute": "emulated"}}, "set run.learning to true"),
    ],
)
def test_a_remedy_that_cannot_be_had_is_refused(changes: dict[str, Any], problem: str) -> None:
    partition = {
        "data": 2,
        "placement": changes.pop("placement", "by_label"),
        "remedy": changes.pop("remedy", "resample"),
    }
    known: dict[str, Any] = {"partition": partition, "sync": {"method": "local_sgd"}} | changes
    with pytest.raises(ValueError, match=problem):
        make(star(2), **known)
