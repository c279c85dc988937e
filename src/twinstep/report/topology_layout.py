"""Where the nodes of a topology are drawn: hosts on the unit circle, devices outside, switches inside.

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
from twinstep.topologies.graph import natural_order

Positions = Mapping[str, tuple[float, float]]
"""Coordinates by node; no unit, hosts have distance 1 from the centre."""

_DEVICE_DISTANCE = 0.4
_FAN = 0.8
"""The part of a host's share of the circle over which its devices are spread."""
_WIDEST_FAN = 2 * math.pi / 3
_TOP = math.pi / 2


def positions_of(topology: Topology, *, with_devices: bool) -> Positions:
    """Give every host and switch its place, and every device if asked for; the same for equal topologies."""
    places = _hosts(topology)
    tiers = _tiers(topology)
    for index, tier in enumerate(tiers, start=1):
        inmost_is_one = len(tiers[-1]) == 1
        radius = 1 - index / (len(tiers) if inmost_is_one else len(tiers) + 1)
        places |= _switches(topology, tier, radius, places)
    if with_devices:
        places |= _devices(topology, places)
    return {node: (round(place.real, 6), round(place.imag, 6)) for node, place in places.items()}


def _hosts(topology: Topology) -> dict[str, complex]:
    """Put the hosts on a circle, clockwise from the top; a host that is all there is, into the centre."""
    if len(topology.hosts) == 1 and not topology.switches:
        return {topology.hosts[0]: 0j}
    return _spread(topology.hosts, 1.0, _TOP)


def _spread(nodes: Sequence[str], radius: float, first: float) -> dict[str, complex]:
    step = 2 * math.pi / len(nodes)
    return {node: cmath.rect(radius, first - index * step) for index, node in enumerate(nodes)}


def _tiers(topology: Topology) -> list[list[str]]:
    """Group the switches by their distance from the hosts, nearest first; those without a path come last."""
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


def _devices(topology: Topology, places: Mapping[str, complex]) -> dict[str, complex]:
    """Put the devices around their host, on its outer side."""
    by_host: dict[str, list[str]] = defaultdict(list)
    for device in topology.devices:
        by_host[topology.host_of(device)].append(device)
    found: dict[str, complex] = {}
    for host, devices in by_host.items():
        if places[host] == 0:
            found |= _spread(devices, _DEVICE_DISTANCE, _TOP)
            continue
        fan = min(_FAN * 2 * math.pi / len(by_host), _WIDEST_FAN)
        middle = cmath.phase(places[host])
        for index, device in enumerate(devices):
            angle = middle - (index - (len(devices) - 1) / 2) * fan / len(devices)
            found[device] = cmath.rect(1 + _DEVICE_DISTANCE, angle)
    return found
