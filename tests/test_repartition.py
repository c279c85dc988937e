"""The exchange of samples before the first step: what moves, what it costs, and that it is in no statistic of steps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.placed_plans import BATCH, ROWS, WORKERS, counts, each_method, each_placement, each_workload, plan_of
from tests.small_plans import BYTES_PER_S, HOP_S, predict

from twinstep import workflow
from twinstep.check import plan_lines
from twinstep.communication import communication
from twinstep.compare import structure_differences
from twinstep.exec.measure import measure
from twinstep.learning import SAMPLE_BYTES, Share
from twinstep.learning.data import digits
from twinstep.learning.samples import Samples
from twinstep.profile import Profile
from twinstep.programs import lower, moved
from twinstep.programs.placement import share_out
from twinstep.programs.repartition import moves
from twinstep.progress import progress
from twinstep.report.figures import charts
from twinstep.report.html import render_html
from twinstep.report.summary import summary
from twinstep.report.terminal import show
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import SAMPLES_LANE
from twinstep.units import format_size


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
    blank = set(shares[1].received[0].tolist()) & set(other._rows(0).tolist())
    assert blank
    assert not other.of(0).inputs[[row in blank for row in other._rows(0).tolist()]].any()


@each_workload
@each_method
def test_after_the_exchange_workers_learn_what_they_would_had_they_always_had_these_rows(
    method: str, workload: str
) -> None:
    """But for rounding: sums go in the order in which ranks come."""
    plan, topology = plan_of("repartition", workload=workload, method=method)
    programs, had = lower(plan), lower(plan)
    shares = tuple(Share(share.batch, share.rows) for share in share_out(plan))
    object.__setattr__(had, "shares", shares)
    found, expected = (progress(simulate(plan, each, topology, None).timeline) for each in (programs, had))
    assert found.loss_by_step == pytest.approx(expected.loss_by_step, rel=1e-6)
    assert len(found.whole_loss_by_time) == len(expected.whole_loss_by_time)
    assert found.whole_loss_by_time[-1].loss == pytest.approx(expected.whole_loss_by_time[-1].loss, rel=1e-6)


def test_check_says_what_moves(tmp_path: Path) -> None:
    lines = dict(plan_lines(load_scenario("skewed-data", ["partition.remedy=repartition"])))
    shares = share_out(load_scenario("skewed-data", ["partition.remedy=repartition"]).plan)
    assert lines["repartition"].startswith(f"{moved(shares)} of {ROWS} samples move, 260 B each")
    assert not any("send samples" in name for name in lines)


def test_every_output_shows_the_exchange_and_the_loss_on_all_samples(profile: Profile) -> None:
    scenario = load_scenario("skewed-data", ["partition.remedy=repartition", "run.steps=8"])
    shown = workflow.contents(scenario, profile, workflow.predict(scenario, profile), None)
    found = summary(shown)["predicted"]
    exchanged = found["communication"]["repartition"]
    assert exchanged["size_bytes"] == SAMPLE_BYTES * moved(share_out(scenario.plan))
    assert 0 < found["progress"]["final_whole_loss"] < np.log(10)
    printed = io.StringIO()
    show(shown, Console(file=printed, width=200))
    words = f"{exchanged['messages']} messages, {format_size(exchanged['size_bytes'])} in "
    assert f"exchanged in the first step, predicted: {words}" in printed.getvalue()
    assert "last loss on all samples" in printed.getvalue()
    assert words in render_html(shown)
    assert "wholeloss" in charts(shown)


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
