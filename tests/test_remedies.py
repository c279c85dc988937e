"""Remedies against uneven labels: what is drawn, what it weighs, and what moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.small_plans import BYTES_PER_S, HOP_S, make, predict, star

from twinstep.check import plan_lines
from twinstep.communication import communication
from twinstep.compare import structure_differences
from twinstep.exec.measure import measure
from twinstep.learning import SAMPLE_BYTES
from twinstep.learning.data import DataSet, digits
from twinstep.learning.models import layers_of
from twinstep.learning.samples import Samples, class_weights
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import lower, moved
from twinstep.programs.placement import share_out
from twinstep.programs.repartition import moves
from twinstep.progress import progress
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import SAMPLES_LANE, Timeline
from twinstep.workloads import Classifier

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


# What is drawn.


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


# What it weighs.


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


# What moves.


@each_placement
@pytest.mark.parametrize("workers", [1, 2, 6])
def test_repartition_makes_shards_as_stratified_ones_and_conserves_every_sample(placement: str, workers: int) -> None:
    plan, _ = plan_of("repartition", placement, workers=workers)
    shares = share_out(plan)
    rows = np.concatenate([share.rows for share in shares])  # type: ignore[misc]
    assert sorted(rows.tolist()) == list(range(ROWS))
    assert np.array_equal(counts(plan), counts(plan_of("none", "stratified", workers=workers)[0]))
    assert {len(share) for share in shares} == {BATCH // workers}


@each_placement
def test_repartition_moves_only_what_a_worker_has_too_much_of(placement: str) -> None:
    """No fewer moves lead to the same counts: every surplus must go."""
    plan, _ = plan_of("repartition", placement)
    before, after = counts(plan_of("none", placement)[0]), counts(plan)
    shares = share_out(plan)
    assert moved(shares) == np.maximum(before - after, 0).sum()
    had = [set(share.rows.tolist()) for share in share_out(plan_of("none", placement)[0])]  # type: ignore[union-attr]
    has = [set(share.rows.tolist()) for share in shares]  # type: ignore[union-attr]
    for worker, share in enumerate(shares):
        gone = {row for rows in share.sent.values() for row in rows.tolist()}
        come = {row for rows in share.received.values() for row in rows.tolist()}
        assert (had[worker] - has[worker], has[worker] - had[worker]) == (gone, come)
        assert worker not in share.sent
        for peer, rows in share.sent.items():
            assert np.array_equal(rows, shares[peer].received[worker])


def test_nothing_moves_where_all_is_well() -> None:
    assert moved(share_out(plan_of("repartition", "stratified")[0])) == 0
    labels = np.array([0, 1, 0, 1])
    assert moves(labels, np.array([0, 0, 1, 1]), np.array([1, 0, 0, 1])) == {}


@each_workload
@each_method
def test_the_exchange_is_in_the_first_step_and_its_bytes_are_the_samples_that_move(method: str, workload: str) -> None:
    plan, topology = plan_of("repartition", workload=workload, method=method)
    timeline = predict(plan, topology).timeline
    found = communication(timeline, {"data": WORKERS, "servers": WORKERS + 1}).repartition
    shares = lower(plan).shares  # type: ignore[attr-defined]
    assert found is not None
    assert found.size_bytes == SAMPLE_BYTES * moved(shares) > 0
    assert found.messages == sum(len(share.sent) for share in shares)
    spans = [span for span in timeline.spans if span.lane == SAMPLES_LANE]
    assert {span.step for span in spans} == {0}
    received = dict.fromkeys(range(WORKERS), 0)
    for span in spans:
        if span.operation.startswith("recv"):
            received[span.rank] += span.size_bytes
    assert received == {
        rank: SAMPLE_BYTES * sum(map(len, share.received.values())) for rank, share in enumerate(shares)
    }


def test_the_exchange_takes_what_the_busiest_link_takes() -> None:
    """With two workers each sends half of what it has over a link of its own, both ways at once."""
    plan, topology = plan_of("repartition", workers=2)
    found = communication(predict(plan, topology).timeline, {"data": 2}).repartition
    assert found is not None
    most = max(SAMPLE_BYTES * sum(map(len, share.sent.values())) for share in share_out(plan))
    assert found.time_s == pytest.approx(most / BYTES_PER_S + HOP_S, rel=1e-3)


@each_method
def test_the_exchange_is_in_no_statistic_of_steps(method: str) -> None:
    """Steps after the warm-up take what those of stratified workers take, and so do their phases."""
    found, expected = (
        predict(*plan_of(remedy, placement, method=method, warmup=4)).timeline
        for remedy, placement in (("repartition", "by_label"), ("none", "stratified"))
    )
    assert found.step_times_s() == pytest.approx(expected.step_times_s(), rel=1e-6)
    assert found.phases_s() == pytest.approx(expected.phases_s(), rel=1e-6, abs=1e-12)
    kinds = [communication(each, {"data": WORKERS, "servers": WORKERS + 1}).collectives for each in (found, expected)]
    assert [use[:5] for use in kinds[0]] == [use[:5] for use in kinds[1]]


def test_workers_go_on_with_what_they_have_received() -> None:
    """What arrives is what is learnt from: nothing is looked up in the data set that has not come."""
    plan, _ = plan_of("repartition", workers=2)
    shares = share_out(plan)
    one, other = (Samples(plan, rank, share) for rank, share in enumerate(shares))
    one.received(1)[:] = other.sent(0)
    one.take()
    data = digits()
    for step in range(5):
        rows = one._rows(step)
        assert np.array_equal(one.of(step).inputs, data.inputs[rows])
        assert np.array_equal(one.of(step).targets, data.targets[rows])
    other.take()  # nothing has come
    blank = set(shares[1].received[0].tolist()) & set(other._rows(0).tolist())
    assert blank
    assert not other.of(0).inputs[[row in blank for row in other._rows(0).tolist()]].any()


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


def test_check_says_what_moves(tmp_path: Path) -> None:
    lines = dict(plan_lines(load_scenario("skewed-data", ["partition.remedy=repartition"])))
    shares = share_out(load_scenario("skewed-data", ["partition.remedy=repartition"]).plan)
    assert lines["repartition"].startswith(f"{moved(shares)} of {ROWS} samples move, 260 B each")
    assert not any("send samples" in name for name in lines)


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


SYNC = {
    "local_sgd": ("method: local_sgd, every: 2", 3),
    "gossip": ("method: gossip", 3),
    "parameter_server": ("method: parameter_server", 4),
}


@pytest.mark.slow
@each_method
def test_both_back_ends_exchange_and_learn_the_same(method: str, tmp_path: Path, profile: Profile) -> None:
    """In bulk synchronous training nothing is chance: losses agree to rounding, also those on all samples."""
    sync, ranks = SYNC[method]
    path = tmp_path / "plan.yaml"
    path.write_text(
        "workload: {kind: logistic_regression, batch: 60}\n"
        f"partition: {{data: 3, placement: by_label, remedy: repartition}}\nsync: {{{sync}}}\n"
        f"topology: {{builder: one_host, devices: {ranks}, device: {{peak: 1 GFLOP/s, memory_bandwidth: 10 MB/s}}}}\n"
        "run: {steps: 8, warmup: 2, compute: emulated, learning: true, timeout: 30 s}\n"
    )
    loaded = load_scenario(str(path))
    measured = measure(loaded.plan, profile, lambda step: None).timeline
    predicted = simulate(loaded.plan, lower(loaded.plan), loaded.topology, profile).timeline
    assert structure_differences(predicted, measured) == ()
    expected = sum(len(share.sent) for share in share_out(loaded.plan))
    for timeline in (predicted, measured):
        sends = [s for s in timeline.spans if s.lane == SAMPLES_LANE and s.operation.startswith("send ")]
        assert len(sends) == expected > 0
        assert sum(span.size_bytes for span in sends) == SAMPLE_BYTES * moved(share_out(loaded.plan))
    one, other = progress(predicted), progress(measured)
    assert one.loss_by_step == pytest.approx(other.loss_by_step, rel=1e-5)
    whole = [[at.loss for at in found.whole_loss_by_time] for found in (one, other)]
    assert whole[0] == pytest.approx(whole[1], rel=1e-5)
    assert len(whole[0]) > 2
