"""Repartition: before the first step workers exchange samples until all have equally many with the same mix of labels.

Worker w has n_wc samples of label c, and is to have t_wc, as many as `stratified` would give it: equally many of each
label, but for one, and equally many altogether, but for one. A worker gives away the last n_wc - t_wc rows of a label
where it has too many; givers and takers of a label are matched in the order of ranks. So

    moved samples = sum over w and c of max(0, n_wc - t_wc)

which is the least that leads to these t: whoever moves fewer leaves a worker with more than t_wc. All that one worker
gives another is one message, of 260 bytes a sample: 64 pixels and the label in single precision. Every message is
posted at once; packing costs nothing here.

The exchange is a part of the first step, which belongs to the warm-up, so no statistic of steps counts it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from twinstep.effects import Program, Transfer, Wait
from twinstep.learning import SAMPLE_BYTES, Samples, Share
from twinstep.learning.data import Labels
from twinstep.learning.samples import Rows
from twinstep.timeline import SAMPLES_LANE

Moves = Mapping[tuple[int, int], Rows]
"""The rows that move from one worker to another, by both."""


def moves(labels: Labels, owner: Rows, target: Rows) -> Moves:
    """List what moves so that each worker has as many rows of each label as `target`, another owner of each row, says.

    >>> labels, owner, target = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    >>> {pair: rows.tolist() for pair, rows in moves(labels, owner, target).items()}
    {(0, 1): [1], (1, 0): [3]}
    """
    workers = int(max(owner.max(), target.max())) + 1
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for label in np.unique(labels):
        has = labels == label
        surplus = np.bincount(owner[has], minlength=workers) - np.bincount(target[has], minlength=workers)
        takers = np.repeat(np.arange(workers), np.maximum(-surplus, 0)).tolist()
        given = [
            (worker, row)
            for worker in np.flatnonzero(surplus > 0).tolist()
            for row in np.flatnonzero(has & (owner == worker))[-surplus[worker] :].tolist()
        ]
        for (giver, row), taker in zip(given, takers, strict=True):
            found[giver, taker].append(row)
    return {pair: np.array(rows, dtype=np.int64) for pair, rows in sorted(found.items())}


def moved(shares: Sequence[Share]) -> int:
    """Count the samples that workers give to others."""
    return sum(len(rows) for share in shares for rows in share.sent.values())


def exchange_samples(group: str, rank: int, share: Share, samples: Samples | None) -> Program:
    """Give away and receive what the share says; `samples` are those of a worker that learns."""
    handles = []
    for peer, rows in share.received.items():
        contents = samples.received(peer) if samples else None
        size_bytes = SAMPLE_BYTES * len(rows)
        handles.append((yield Transfer("recv", group, peer, rank, size_bytes, SAMPLES_LANE, contents=contents)))
    for peer, rows in share.sent.items():
        contents = samples.sent(peer) if samples else None
        size_bytes = SAMPLE_BYTES * len(rows)
        handles.append((yield Transfer("send", group, rank, peer, size_bytes, SAMPLES_LANE, contents=contents)))
    for handle in handles:
        yield Wait(handle)
    if samples and share.received:
        samples.take()
