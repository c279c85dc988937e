"""Folding: find what lives through the same times, so that one of each needs to be simulated.

Items (ranks, rows of circles, resources) have colours, and edges with labels between them: a rank belongs to a row, a
row weighs on a resource. Two items keep the same colour as long as they have equally many edges of each label to
items of each colour. Refining colours until none is split gives the coarsest equitable partition that keeps the first
colours apart (as in the first step of every test for graph isomorphism: Weisfeiler and Leman, 1968).

In an equitable partition all items of a colour live through the same times. Suppose they have up to some instant: then
ranks of a colour, which run the same program, issue the same in it; rows of a colour have then been joined by equally
many ranks of each colour, so they begin together; and what weighs on resources of a colour is equal, so rates are, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


class Edges(NamedTuple):
    """Edge i joins item `one[i]` and item `other[i]`, which play different parts in it, under a label."""

    one: Ints
    other: Ints
    label: Words


def refine(colours: Ints, edges: Sequence[Edges]) -> Ints:
    """Give the coarsest equitable partition that is at least as fine as `colours`, as a number for each item.

    Items 0 and 2 hang on item 1, item 3 on item 4; all begin with the same colour:

    >>> edge = Edges(np.array([0, 2, 3]), np.array([1, 1, 4]), np.zeros(3, dtype=np.uint64))
    >>> refine(np.zeros(5, dtype=np.int64), [edge]).tolist()
    [0, 2, 0, 3, 1]
    """
    one = np.concatenate([edge.one for edge in edges]) if edges else np.zeros(0, dtype=np.int64)
    other = np.concatenate([edge.other for edge in edges]) if edges else np.zeros(0, dtype=np.int64)
    label = np.concatenate([edge.label for edge in edges]) if edges else np.zeros(0, dtype=np.uint64)
    label_of_one, label_of_other = mix(label), mix(label ^ np.uint64(0x5555555555555555))
    _, colours = np.unique(colours, return_inverse=True)
    count = int(colours.max(initial=-1)) + 1
    while True:
        words = mix(colours.astype(np.uint64))
        seen = np.zeros(len(colours), dtype=np.uint64)
        np.add.at(seen, one, mix(words[other] ^ label_of_one))
        np.add.at(seen, other, mix(words[one] ^ label_of_other))
        _, colours = np.unique(mix(words + seen), return_inverse=True)
        found = int(colours.max(initial=-1)) + 1
        if found == count:
            return colours
        count = found


def mix(words: Words) -> Words:
    """Spread 64 bits over 64 bits, one to one (the finaliser of SplitMix64: Steele, Lea, Flood, 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def words_of(values: NDArray[np.float64]) -> Words:
    """Give the bits of numbers."""
    return np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)


def representatives(colours: Ints) -> Ints:
    """Give, for each item, the first item of its colour.

    >>> representatives(np.array([5, 3, 5, 3])).tolist()
    [0, 1, 0, 1]
    """
    _, first, inverse = np.unique(colours, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)
