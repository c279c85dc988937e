"""Pattern: which ranks of a group send at the same time, as pairs of positions.

    ring(4)         0>1 1>2 2>3 3>0        shift(4, 2)    0>2 1>3 2>0 3>1
    exchange(4, 1)  0>1 1>0 2>3 3>2        level(8, 2)    0>2 4>6
    depth(8, 2)     1>3 1>5 2>6            all_pairs(3)   0>1 0>2 1>0 1>2 2>0 2>1

A pattern is plain data, so that it can be compared and looked up; `pairs` lists its pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import InputError

_MOST_OF_ALL_PAIRS = 4096

Ints = NDArray[np.int64]
Pairs = tuple[Ints, Ints]
"""Positions that send, and those that each of them sends to."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Pairs of positions in a group of some ranks.

    >>> sources, targets = Pattern("ring", 3).pairs()
    >>> list(zip(sources.tolist(), targets.tolist()))
    [(0, 1), (1, 2), (2, 0)]
    """

    name: str
    ranks: int
    parameter: int = 0
    """A distance, a depth, or ranks a host; see the functions of this module."""
    flows_from: tuple[int, ...] = ()
    """How many flows each pair has by its source; one, where left out."""
    flows_to: tuple[int, ...] = ()
    """How many by its target."""

    @property
    def merged(self) -> bool:
        """Tell whether switches merge the flows, so that a link carries one however many pairs cross it."""
        return self.name == "in_network"

    @property
    def direction(self) -> int:
        """Tell where a ring of three or more turns: 1 to the next rank, -1 to the one before, 0 for other patterns."""
        if self.name == "ring" and self.ranks > 2:
            return 1
        return -1 if self.name == "shift" and self.parameter == self.ranks - 1 > 1 else 0

    def pairs(self) -> Pairs:
        """List the pairs."""
        return _PATTERNS[self.name](self.ranks, self.parameter)

    def flows(self) -> Ints:
        """Count the flows of each pair.

        >>> Pattern("shift", 3, 1, flows_to=(5, 0, 1)).flows().tolist()
        [0, 1, 5]
        """
        counts = np.ones(len(self.pairs()[0]), dtype=np.int64)
        for by_position, ends in zip((self.flows_from, self.flows_to), self.pairs(), strict=True):
            if by_position:
                counts *= np.array(by_position, dtype=np.int64)[ends]
        return counts

    def reversed(self) -> Pattern:
        """Turn every pair around."""
        return Pattern(_REVERSED[self.name], self.ranks, self.parameter, self.flows_to, self.flows_from)


def _ring(ranks: int, block: int) -> Pairs:
    """Each rank to its successor; with blocks, each of these consecutive ranks forms a ring of its own."""
    position = np.arange(ranks)
    block = block or ranks
    return position, position - position % block + (position + 1) % block


def _chain(ranks: int, _: int) -> Pairs:
    position = np.arange(ranks - 1)
    return position, position + 1


def _both_ways(ranks: int, _: int) -> Pairs:
    sources, targets = _ring(ranks, 0)
    return np.concatenate([sources, targets]), np.concatenate([targets, sources])


def _shift(ranks: int, distance: int) -> Pairs:
    position = np.arange(ranks)
    return position, (position + distance) % ranks


def _across(ranks: int, block: int) -> Pairs:
    """Each rank to the one in the same place of the next block."""
    return _shift(ranks, block)


def _exchange(ranks: int, distance: int) -> Pairs:
    """Each of the largest power of two of ranks with the one whose number differs in the bit `distance`."""
    position = np.arange(1 << (ranks.bit_length() - 1))
    return position, position ^ distance


def _surplus(ranks: int, _: int) -> Pairs:
    """Each rank beyond the largest power of two to the one that many below."""
    power = 1 << (ranks.bit_length() - 1)
    position = np.arange(power, ranks)
    return position, position - power


def _level(ranks: int, distance: int) -> Pairs:
    """One level of a binomial tree: the first rank of each block of `distance` to the first of the next, in pairs."""
    position = np.arange(0, ranks - distance, 2 * distance)
    return position, position + distance


def _depth(ranks: int, depth: int) -> Pairs:
    """The edges of a binomial tree that end at some depth, or all where it is 0: a parent lacks the highest bit."""
    edges = [(rank - (1 << (rank.bit_length() - 1)), rank) for rank in range(1, ranks)]
    edges = [edge for edge in edges if depth in (0, edge[1].bit_count())]
    return _columns(edges)


def _from_root(ranks: int, _: int) -> Pairs:
    return np.zeros(ranks - 1, dtype=np.int64), np.arange(1, ranks)


def _all_pairs(ranks: int, _: int) -> Pairs:
    if ranks > _MOST_OF_ALL_PAIRS:
        problem = f"{ranks} ranks that all send to each other make {ranks * (ranks - 1):,} pairs"
        raise InputError(problem, remedy=f"give the group at most {_MOST_OF_ALL_PAIRS} ranks")
    sources, targets = np.divmod(np.arange(ranks * ranks), ranks)
    return sources[sources != targets], targets[sources != targets]


def _in_network(ranks: int, _: int) -> Pairs:
    """Every rank to and from the first: where links carry merged flows, the tree that joins them all."""
    root, others = _from_root(ranks, 0)
    return np.concatenate([others, root]), np.concatenate([root, others])


def _double_tree(ranks: int, _: int) -> Pairs:
    """Both trees, edges in both directions."""
    children, parents = _columns(double_tree_edges(ranks))
    return np.concatenate([children, parents]), np.concatenate([parents, children])


def double_tree_edges(ranks: int) -> list[tuple[int, int]]:
    """List (child, parent) of two binary trees in which an inner node of one is a leaf of the other.

    The first tree is in order: a node's height is the number of trailing zeros of its number, counted from 1. The
    second is the same after a shift by one rank (or a mirror image, where the number of ranks is even).
    Source: Sanders, Speck, Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", 2009.
    """
    first = [(child, _parent(child, ranks)) for child in range(ranks)]
    edges = [(child, parent) for child, parent in first if parent >= 0]
    if ranks % 2:
        return edges + [((child + 1) % ranks, (parent + 1) % ranks) for child, parent in edges]
    return edges + [(ranks - 1 - child, ranks - 1 - parent) for child, parent in edges]


def _parent(rank: int, ranks: int) -> int:
    """Give the parent in the tree in order, where rank 0 is the root above the tree of all others."""
    if rank == 0:
        return -1
    bit = rank & -rank
    up = (rank ^ bit) | (bit << 1)
    return up if up < ranks else rank ^ bit


def _channels(ranks: int, block: int) -> Pairs:
    """Rings over hosts, one a device of a host, each of which leaves the hosts by another device.

    Ring c goes through host h from device c - h to device c - h - 1, and from there to the same device of the next
    host, so that every network card carries one ring in and one out.
    """
    channel, host, place = np.meshgrid(np.arange(block), np.arange(ranks // block), np.arange(block), indexing="ij")
    order = (host * block + (channel - host + place) % block).reshape(block, ranks)
    return order.ravel(), np.roll(order, -1, axis=1).ravel()


def _trees_of_channels(ranks: int, block: int) -> Pairs:
    """Double trees over hosts, one a device of a host; within a host, chains lead to that device; both directions.

    Both trees of a device use its chains, so the edges of chains stand twice.
    """
    hosts = np.arange(ranks // block) * block
    across = np.array(double_tree_edges(len(hosts)), dtype=np.int64).reshape(-1, 2) * block
    edges = [across + device for device in range(block)]
    for device in range(block):
        for place in range(1, block):
            chain = np.stack([hosts + (device + place) % block, hosts + (device + place - 1) % block], axis=1)
            edges += [chain, chain]
    children, parents = np.concatenate(edges).T
    return np.concatenate([children, parents]), np.concatenate([parents, children])


def _columns(pairs: list[tuple[int, int]]) -> Pairs:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _turned(pattern: Callable[[int, int], Pairs]) -> Callable[[int, int], Pairs]:
    def turned(ranks: int, parameter: int) -> Pairs:
        sources, targets = pattern(ranks, parameter)
        return targets, sources

    return turned


_PATTERNS: dict[str, Callable[[int, int], Pairs]] = {
    "ring": _ring,
    "chain": _chain,
    "both_ways": _both_ways,
    "shift": _shift,
    "across": _across,
    "exchange": _exchange,
    "surplus": _surplus,
    "surplus_back": _turned(_surplus),
    "level": _level,
    "level_back": _turned(_level),
    "depth": _depth,
    "depth_back": _turned(_depth),
    "from_root": _from_root,
    "to_root": _turned(_from_root),
    "all_pairs": _all_pairs,
    "in_network": _in_network,
    "double_tree": _double_tree,
    "channels": _channels,
    "trees_of_channels": _trees_of_channels,
}
_REVERSED = {"surplus": "surplus_back", "level": "level_back", "depth": "depth_back", "from_root": "to_root"}
