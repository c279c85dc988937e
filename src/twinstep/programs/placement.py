"""Placement: which samples of a batch belong to which rank."""

from __future__ import annotations

from itertools import pairwise


def shards(samples: int, ranks: int) -> tuple[range, ...]:
    """Cut samples 0 to `samples` - 1 into one consecutive range a rank; the first ones are longer by one at most.

    >>> shards(7, 3)
    (range(0, 3), range(3, 5), range(5, 7))
    """
    short, longer = divmod(samples, ranks)
    bounds = [rank * short + min(rank, longer) for rank in range(ranks + 1)]
    return tuple(range(start, end) for start, end in pairwise(bounds))
