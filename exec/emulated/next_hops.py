"""Next hops: the simulator's routes, as what each node of a network of real hosts must know.

A node forwards by the target's address: the route that most flows to the target take is the plain one, and flows that
leave by another link (ECMP) have a rule by source and target.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from twinstep.errors import InputError
from twinstep.topologies import Policy, Topology


class NextHop(NamedTuple):
    """Where a node sends what goes to a target."""

    node: str
    target: str
    link: int
    """The index of the link among those of the topology."""
    source: str | None
    """The source whose flows alone it holds for; None where it holds for all others."""


Ways = Mapping[tuple[str, str], Mapping[str, int]]
"""For each source and target, the nodes on the way and the index of the link by which it leaves each."""


def ways(topology: Topology, policy: Policy, ends: Mapping[str, Sequence[str]]) -> Ways:
    """Give the ways among the places in `ends`, each with the nodes that stand there: a host's devices.

    Raises InputError where flows are divided, or flows between the same two places take several ways.
    """
    if policy == "spray":
        raise InputError(
            "communication.routing is spray, and the kernel sends each flow one way",
            remedy="set it to shortest or ecmp, or use `twinstep predict`",
        )
    pairs = [
        ((place, other), (node, peer))
        for place, other in permutations(ends, 2)
        for node in ends[place]
        for peer in ends[other]
    ]
    ids = topology.node_ids
    sources, targets = (np.array([ids[nodes[end]] for _, nodes in pairs], dtype=np.int64) for end in (0, 1))
    paths = topology.routes(policy).paths(sources, targets)
    for pair in paths.unreached.tolist():
        (source, target), _ = pairs[pair]
        if source in topology.hosts and target in topology.hosts:
            raise InputError(f"no path leads from {source!r} to {target!r}", remedy="add the links that are missing")
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for pair, link in zip(paths.pair.tolist(), paths.link.tolist(), strict=True):
        node, after = map(topology.place_of, topology.links[link][:2])
        way = found[pairs[pair][0]]
        if node != after and way.setdefault(node, link) != link:
            names = " and ".join(repr(topology.links[each].target) for each in sorted((link, way[node])))
            raise InputError(
                "flows from {!r} to {!r} leave {!r} for {}: a host has one way to another".format(
                    *pairs[pair][0], node, names
                ),
                remedy="give each host one rank and one way to leave it, or only predict the plan",
            )
    return found


def next_hops(found: Ways) -> list[NextHop]:
    """Put flows to the same target that leave a node by the same link together."""
    leaving: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for (source, target), way in found.items():
        for node, link in way.items():
            leaving[node, target][source] = link
    hops = []
    for (node, target), links in leaving.items():
        (plain, _), *_ = Counter(links.values()).most_common(1)
        hops.append(NextHop(node, target, plain, None))
        hops += [NextHop(node, target, link, source) for source, link in links.items() if link != plain]
    return hops


def sources_by_link(found: Ways) -> Mapping[int, tuple[str, ...]]:
    """List for each link the sources whose flows cross it."""
    sources: dict[int, dict[str, None]] = defaultdict(dict)
    for (source, _), way in found.items():
        for link in way.values():
            sources[link][source] = None
    return {link: tuple(names) for link, names in sources.items()}
