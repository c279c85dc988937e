"""Neighbours: which ranks are nearest to each other in the topology graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import networkx as nx

from twinstep.topologies.graph import Topology, TopologyError

_MOST_PAIRS = 2**20
_RING = "set sync.neighbours to ring"


def nearest_ranks(topology: Topology, devices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Give for each rank those on its own host and on the nearest hosts; `devices` are the ranks' device indices.

    Near is counted in links: hosts that are joined by one, else those behind the fewest switches. Whoever has a rank
    among its nearest is a neighbour of that rank, too. Raises TopologyError where neighbours are not all connected with
    one another, or too many.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, device in enumerate(devices):
        ranks[topology.device_hosts[device]].append(rank)
    near: nx.Graph[str] = nx.Graph()
    near.add_nodes_from(ranks)
    pairs = 0
    for host, own in ranks.items():
        found = _nearest_hosts(topology.graph, host, ranks)
        pairs += len(own) * sum(len(ranks[each]) for each in (host, *found))
        if pairs > _MOST_PAIRS:
            raise TopologyError(f"its ranks have more than {_MOST_PAIRS} pairs of neighbours", remedy=_RING)
        near.add_edges_from((host, each) for each in found)
    _check_connected(near)
    around = {host: sorted(rank for each in (host, *near[host]) for rank in ranks[each]) for host in ranks}
    return tuple(
        tuple(other for other in around[topology.device_hosts[device]] if other != rank)
        for rank, device in enumerate(devices)
    )


def _nearest_hosts(graph: nx.DiGraph[str], host: str, hosts: Collection[str]) -> list[str]:
    """Give those of `hosts` that are the fewest links away from another."""
    for layer in nx.bfs_layers(graph, host):
        if found := [node for node in layer if node in hosts and node != host]:
            return found
    return []


def _check_connected(near: nx.Graph[str]) -> None:
    first, *others = nx.connected_components(near)
    if others:
        one, other = (next(host for host in near if host in part) for part in (first, others[0]))
        raise TopologyError(
            f"if ranks have the nearest for neighbours, {one!r} never hears of {other!r}, not even through others",
            remedy=f"{_RING}, or link hosts so that the nearest of each connect them all",
        )
