"""Which rows of a data set a worker has, and how large its part of each batch is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.small_plans import make, predict, star

from twinstep.errors import InputError
from twinstep.learning.data import digits
from twinstep.learning.samples import Samples
from twinstep.plan import Plan
from twinstep.programs.placement import share_out

PLACEMENTS = ["hash", "consistent_hash", "random", "stratified", "by_label"]
ROWS, BATCH = 1797, 240


def plan_of(placement: str, workers: int = 6, **changes: Any) -> tuple[Plan, Any]:
    known: dict[str, Any] = {
        "partition": {"data": workers, "placement": placement},
        "sync": {"method": "local_sgd"},
        "communication": {"library": "ideal"},
    } | changes
    return make(star(workers), **known)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("workers", [1, 2, 6])
def test_every_row_belongs_to_one_worker_and_every_sample_of_a_batch(placement: str, workers: int) -> None:
    shares = share_out(plan_of(placement, workers)[0])
    rows = np.concatenate([share.rows for share in shares])  # type: ignore[misc]
    assert sorted(rows.tolist()) == list(range(ROWS))
    assert [place for share in shares for place in share.batch] == list(range(BATCH))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_workers_part_of_a_batch_is_that_of_its_rows(placement: str) -> None:
    for share in share_out(plan_of(placement)[0]):
        assert abs(len(share) - BATCH * len(share.rows) / ROWS) <= 1  # type: ignore[arg-type]


def labels(placement: str) -> list[Counter[int]]:
    targets = digits().targets
    return [Counter(targets[share.rows].tolist()) for share in share_out(plan_of(placement)[0])]


def test_stratified_workers_have_the_same_mix_and_those_by_label_few_labels() -> None:
    whole = Counter(digits().targets.tolist())
    for counts in labels("stratified"):
        assert all(abs(counts[label] - whole[label] / 6) < 1.01 for label in whole)
    assert all(len(counts) <= 3 for counts in labels("by_label"))
    assert all(len(counts) == 10 for counts in labels("random"))


def test_one_worker_more_moves_few_rows_of_a_consistent_hash_and_most_of_a_plain_one() -> None:
    def owners(placement: str, workers: int) -> list[int]:
        found = {}
        for worker, share in enumerate(share_out(plan_of(placement, workers)[0])):
            found |= dict.fromkeys(share.rows.tolist(), worker)  # type: ignore[union-attr]
        return [found[row] for row in range(ROWS)]

    moved = {
        placement: sum(a != b for a, b in zip(owners(placement, 5), owners(placement, 6), strict=True)) / ROWS
        for placement in ("hash", "consistent_hash")
    }
    assert moved["consistent_hash"] == pytest.approx(1 / 6, abs=0.06)
    assert moved["hash"] == pytest.approx(5 / 6, abs=0.05)


@pytest.mark.parametrize("placement", ["range", *PLACEMENTS])
def test_workers_draw_their_own_rows_alone_and_no_sample_twice_in_a_step(placement: str) -> None:
    plan, _ = plan_of(placement)
    data = digits()
    for rank, share in enumerate(share_out(plan)):
        samples = Samples(plan, rank, share)
        rows = samples._rows(3)
        assert len(set(rows.tolist())) == len(share)
        assert share.rows is None or set(rows.tolist()) <= set(share.rows.tolist())
        assert np.array_equal(samples.of(3).inputs, data.inputs[rows])


def test_the_largest_share_sets_the_pace_of_a_synchronous_step() -> None:
    times_s = {name: predict(*plan_of(name)).timeline.step_time_s() for name in ("range", "consistent_hash")}
    shares = share_out(plan_of("consistent_hash")[0])
    largest = max(len(share) for share in shares)
    assert largest > 1.1 * BATCH / 6
    assert times_s["consistent_hash"] > times_s["range"]


def test_a_worker_without_a_sample_is_an_error() -> None:
    plan, _ = plan_of("hash", 300, workload={"kind": "linear_regression"})
    with pytest.raises(InputError, match="without a sample"):
        share_out(plan)
