"""Placement: which samples belong to which rank.

`range` cuts every global batch into consecutive ranges. The others give each row of the data set to one worker for
good, and a worker's part of each batch is as large as its part of the rows: where that is uneven, the worker with the
most samples sets the pace of all that wait for it.

| placement | a row belongs to |
|---|---|
| hash | the worker that its hash names |
| consistent_hash | the worker that a circle of hashes names: one worker more moves few rows |
| random | a worker by a random order of all rows, as many as every other |
| stratified | the same within each label, so that all workers have the same mix of labels |
| by_label | a worker by the order of labels: the worst mix there is |

Against uneven rows or labels there is `partition.remedy`. With `resample` every worker's part of a batch is equal, with
`repartition` workers exchange rows first, so that parts are equal again; `twinstep.learning.samples` and
`twinstep.programs.repartition` say what each of them does.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from twinstep.errors import InputError
from twinstep.learning import Share
from twinstep.learning.data import labels_of
from twinstep.learning.samples import Rows
from twinstep.partition import Placement
from twinstep.plan import Plan
from twinstep.programs.hash_circle import HashCircle, hashed
from twinstep.programs.repartition import Moves, moves
from twinstep.workloads import data_rows


def shards(samples: int, ranks: int) -> tuple[range, ...]:
    """Cut samples 0 to `samples` - 1 into one consecutive range a rank; the first ones are longer by one at most.

    >>> shards(7, 3)
    (range(0, 3), range(3, 5), range(5, 7))
    """
    short, longer = divmod(samples, ranks)
    bounds = [rank * short + min(rank, longer) for rank in range(ranks + 1)]
    return tuple(range(start, end) for start, end in pairwise(bounds))


def share_out(plan: Plan) -> tuple[Share, ...]:
    """Give every worker its share. Raises InputError where a worker would have no sample."""
    samples, workers = plan.training.samples, plan.partition.data
    if plan.partition.placement == "range":
        return tuple(map(Share, shards(samples, workers)))
    owner = _owners(plan, plan.partition.placement, data_rows(plan.training), workers)
    moving = _moving(plan, owner, workers)
    for (_, taker), moved in moving.items():
        owner[moved] = taker
    rows = [np.flatnonzero(owner == worker) for worker in range(workers)]
    empty = [worker for worker in range(workers) if not len(rows[worker])]
    if empty:
        raise InputError(
            f"partition.placement {plan.partition.placement} leaves worker {empty[0]} without a sample",
            remedy="lower partition.data, or choose another placement",
        )
    is_resampled = plan.partition.remedy == "resample"
    sizes = [1] * workers if is_resampled else [len(own) for own in rows]
    bounds = np.cumsum([0, *_proportional(samples, sizes)]).tolist()
    return tuple(
        Share(
            range(*ends),
            own,
            sent={taker: moved for (giver, taker), moved in moving.items() if giver == worker},
            received={giver: moved for (giver, taker), moved in moving.items() if taker == worker},
        )
        for worker, (ends, own) in enumerate(zip(pairwise(bounds), rows, strict=True))
    )


def _moving(plan: Plan, owner: Rows, workers: int) -> Moves:
    """List the rows that workers exchange."""
    if plan.partition.remedy != "repartition":
        return {}
    return moves(labels_of(plan.training), owner, _owners(plan, "stratified", len(owner), workers))


def _owners(plan: Plan, placement: Placement, count: int, workers: int) -> Rows:
    """Give the worker of every row by a placement other than `range`."""
    if placement == "hash":
        return np.array([hashed(f"row {row}") % workers for row in range(count)])
    if placement == "consistent_hash":
        circle = HashCircle(workers)
        return np.array([circle.owner(row) for row in range(count)])
    order = np.random.default_rng(plan.run.seed).permutation(count)
    found = np.empty(count, dtype=np.int64)
    if placement == "random":
        found[order] = np.arange(count) * workers // count
        return found
    labels = labels_of(plan.training)[order]
    order = order[np.argsort(labels, kind="stable")]
    found[order] = np.arange(count) % workers if placement == "stratified" else np.arange(count) * workers // count
    return found


def _proportional(total: int, weights: list[int]) -> list[int]:
    """Divide a number in proportion to weights, one at the least, by largest remainders.

    >>> _proportional(10, [1, 1, 2])
    [3, 2, 5]
    """
    exact = [total * weight / sum(weights) for weight in weights]
    found = [max(1, int(value)) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: found[index] - exact[index])
    for index in (by_remainder * (total // len(weights) + 1))[: max(0, total - sum(found))]:
        found[index] += 1
    while sum(found) > total:
        found[found.index(max(found))] -= 1
    return found
