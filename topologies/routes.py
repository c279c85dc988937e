r"""Routes for many pairs of nodes at once, on arrays.

Nodes with a single neighbour are taken off again and again, devices first, then hosts, then perhaps switches. What is
left is the core. Taken-off nodes are trees that hang on the core, and the way through a tree is unique: all pairs climb
from both ends until they meet or reach the core, in as many rounds as the trees are deep.

             spine                core
            /     \
       switch0   switch1          depth 1       host0 to host2: up, up, down, down
       /    \     /   \
    host0 host1 host2 host3       depth 2       host0 to host1: up, down

Through the core, `core_routes` searches a route for every pair of nodes that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.topologies.core_routes import CoreRoutes, Policy
from twinstep.topologies.link import Link

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Paths(NamedTuple):
    """The links that pairs of nodes use: entry i says that `pair[i]` sends a share of its flow over `link[i]`."""

    pair: Ints
    link: Ints
    share: Floats
    """1, or less where a flow is divided."""
    latency_s: Floats
    """For each pair, the sum over its links."""
    unreached: Ints
    """The pairs without a path."""


class Routes:
    """Routes of a graph. Nodes are indices in natural order, links indices into `links`, but for those in `dead`."""

    def __init__(
        self, nodes: int, links: Sequence[Link], ends: Ints, policy: Policy, dead: frozenset[int] = frozenset()
    ) -> None:
        """Take off the trees; `ends` has a row (source, target) of node indices for each link."""
        self._latencies_s = np.array([link.latency_s for link in links])
        alive = np.setdiff1d(np.arange(len(links)), np.array(sorted(dead), dtype=np.int64))
        self._parent = np.full(nodes, -1)
        self._up = np.full(nodes, -1)
        self._down = np.full(nodes, -1)
        self._depth = np.zeros(nodes, dtype=np.int64)
        core = self._take_off_trees(alive, ends[alive, 0], ends[alive, 1])
        leaving: dict[int, list[tuple[int, int]]] = {}
        entering: dict[int, list[tuple[int, int]]] = {}
        for link, source, target in zip(core.tolist(), *ends[core].T.tolist(), strict=True):
            leaving.setdefault(source, []).append((target, link))
            entering.setdefault(target, []).append((source, link))
        bandwidths_bytes_per_s = [link.bandwidth_bytes_per_s for link in links]
        self._core = CoreRoutes(leaving, entering, self._latencies_s.tolist(), bandwidths_bytes_per_s, policy)

    def _take_off_trees(self, links: Ints, sources: Ints, targets: Ints) -> Ints:
        """Take off nodes with one neighbour, linked both ways, until there is none; give the links that are left."""
        rounds: list[Ints] = []
        while len(links):
            leaving = np.bincount(sources, minlength=len(self._parent))
            entering = np.bincount(targets, minlength=len(self._parent))
            single = (leaving == 1) & (entering == 1)
            out, into = single[sources], single[targets]
            forth, back = np.full(len(self._parent), -1), np.full(len(self._parent), -2)
            forth[sources[out]], back[targets[into]] = targets[out], sources[into]
            leaf = single & (forth == back)
            leaf &= ~(leaf[forth] & (np.arange(len(leaf)) < forth))  # of two that have only each other, one stays
            off = np.flatnonzero(leaf)
            if not len(off):
                break
            out, into = leaf[sources], leaf[targets]
            self._parent[off] = forth[off]
            self._up[sources[out]], self._down[targets[into]] = links[out], links[into]
            rounds.append(off)
            links, sources, targets = (array[~(out | into)] for array in (links, sources, targets))
        for off in reversed(rounds):
            self._depth[off] = self._depth[self._parent[off]] + 1
        return links

    def paths(self, sources: Ints, targets: Ints) -> Paths:
        """Give the paths from sources[i] to targets[i]."""
        here, there = sources.copy(), targets.copy()
        pairs: list[Ints] = []
        links: list[Ints] = []
        latency_s = np.zeros(len(sources))
        while True:
            depth, other = self._depth[here], self._depth[there]
            apart = here != there
            climbs = np.flatnonzero(apart & (depth > 0) & (depth >= other))
            falls = np.flatnonzero(apart & (other > 0) & (other >= depth))
            if not len(climbs) and not len(falls):
                break
            for moving, way, at in ((climbs, self._up, here), (falls, self._down, there)):
                taken = way[at[moving]]
                pairs.append(moving)
                links.append(taken)
                latency_s[moving] += self._latencies_s[taken]
                at[moving] = self._parent[at[moving]]
        shares = [np.ones(len(taken)) for taken in links]
        crossing = np.flatnonzero(here != there)
        ways = zip(*(array[crossing].tolist() for array in (here, there, sources, targets)), strict=True)
        routes = [self._core.route(enter, leave, ends) for enter, leave, *ends in ways]
        known = [(pair, route) for pair, route in zip(crossing.tolist(), routes, strict=True) if route is not None]
        through = np.array([(pair, *hop) for pair, route in known for hop in route.hops]).reshape(-1, 3)
        for pair, route in known:
            latency_s[pair] += route.latency_s
        return Paths(
            np.concatenate([*pairs, through[:, 0].astype(np.int64)]),
            np.concatenate([*links, through[:, 1].astype(np.int64)]),
            np.concatenate([*shares, through[:, 2]]),
            latency_s,
            crossing[[route is None for route in routes]],
        )
