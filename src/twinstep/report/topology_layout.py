"""Where the nodes of a topology are drawn: hosts and storage on the unit circle, devices outside, switches inside.

NICs stand on their host's inner side. Switches of several tiers stand the nearer to the centre the farther from hosts.

                  device
                    |
                  host0
                    |
device - host3 - switch0 - host1 - device
                    |
                  host2
                    |
                  device
"""

from __future__ import annotations

import cmath
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import networkx as nx

from twinstep.topologies import Topology
from twinstep.topologies.graph import NodeKind, natural_order

Positions = Mapping[str, tuple[float, float]]
"""Coordinates by node; no unit, hosts have distance 1 from the centre."""

_DISTANCES: Mapping[NodeKind, float] = {"device": 0.4, "nic": -0.12}
"""How far outside its host a node is drawn."""
_FAN = 0.8
"""The part of a host's share of the circle over which its devices are spread."""
_WIDEST_FAN = 2 * math.pi / 3
_TOP = math.pi / 2


def nodes_of(topology: Topology, kind: NodeKind) -> tuple[str, ...]:
    """Give the nodes of a kind in the order of the graph."""
    return tuple(node for node, found in topology.graph.nodes(data="kind") if found == kind)


def positions_of(topology: Topology, *, with_devices: bool) -> Positions:
    """Give every node its place, the same for equal topologies; without devices, they and NICs stand at their host."""
    places = _hosts(topology)
    for kind, distance in _DISTANCES.items():
        owners = {node: topology.graph.nodes[node]["host"] for node in nodes_of(topology, kind)}
        at_host = {node: places[host] for node, host in owners.items()}
        places |= _around(owners, places, distance) if with_devices else at_host
    tiers = _tiers(topology)
    for index, tier in enumerate(tiers, start=1):
        inmost_is_one = len(tiers[-1]) == 1
        radius = 1 - index / (len(tiers) if inmost_is_one else len(tiers) + 1)
        places |= _switches(topology, tier, radius, places)
    return {node: (round(place.real, 6), round(place.imag, 6)) for node, place in places.items()}


def _hosts(topology: Topology) -> dict[str, complex]:
    """Put hosts and storage on a circle, clockwise from the top; a host that is all there is, into the centre."""
    storage = nodes_of(topology, "storage")
    if len(topology.hosts) == 1 and not topology.switches and not storage:
        return {topology.hosts[0]: 0j}
    return _spread((*topology.hosts, *storage), 1.0, _TOP)


def _spread(nodes: Sequence[str], radius: float, first: float) -> dict[str, complex]:
    step = 2 * math.pi / len(nodes)
    return {node: cmath.rect(radius, first - index * step) for index, node in enumerate(nodes)}


def _tiers(topology: Topology) -> list[list[str]]:
    """Group the switches by their distance from hosts, nearest first; those without a path come last."""
    hops = nx.multi_source_dijkstra_path_length(topology.graph, set(topology.hosts), weight="")
    tiers: dict[float, list[str]] = defaultdict(list)
    for switch in sorted(topology.switches, key=natural_order):
        tiers[hops.get(switch, math.inf)].append(switch)
    return [tiers[distance] for distance in sorted(tiers)]


def _switches(
    topology: Topology, tier: Sequence[str], radius: float, places: Mapping[str, complex]
) -> dict[str, complex]:
    """Put each switch of a tier amid what it joins, or all of them evenly where some would coincide."""
    found = {}
    for switch in tier:
        below = sum(places[node] for node in topology.graph.pred[switch] if node in places)
        found[switch] = cmath.rect(radius, cmath.phase(below)) if abs(below) > 1e-6 else 0j
    distinct = {(round(place.real, 3), round(place.imag, 3)) for place in found.values()}
    if radius == 0 or (len(distinct) == len(tier) and 0j not in found.values()):
        return found
    return _spread(tier, radius, _TOP - math.pi / len(tier))


def _around(owners: Mapping[str, str], places: Mapping[str, complex], distance: float) -> dict[str, complex]:
    """Put nodes around their host, at a distance from it on its outer side, or on its inner one if negative."""
    by_host: dict[str, list[str]] = defaultdict(list)
    for node, host in owners.items():
        by_host[host].append(node)
    found: dict[str, complex] = {}
    for host, nodes in by_host.items():
        if places[host] == 0:
            found |= _spread(nodes, abs(distance), _TOP)
            continue
        fan = min(_FAN * 2 * math.pi / len(by_host), _WIDEST_FAN)
        middle = cmath.phase(places[host])
        for index, node in enumerate(nodes):
            angle = middle - (index - (len(nodes) - 1) / 2) * fan / len(nodes)
            found[node] = cmath.rect(1 + distance, angle)
    return found
