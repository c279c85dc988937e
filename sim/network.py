"""Network: the resources of a topology, and which of them the flows of a group use.

Resources are the links, by their index in the topology (the two directions of a half-duplex link are one), and after
them the hosts, whose capacity is cores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import RunError
from twinstep.sim.algorithms import Pattern
from twinstep.topologies import Policy, Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_PAIRS_AT_ONCE = 2**20


class Incidence(NamedTuple):
    """What flows weigh on resources: row[i] needs weight[i] of resource[i]'s capacity for each flow at rate 1."""

    row: Ints
    resource: Ints
    weight: Floats
    """The number of flows that cross a link, for flows that are not divided."""
    latency_s: Floats
    """For each row, that of the longest path."""


class Resources:
    """The links and hosts of a topology as resources of a fluid."""

    def __init__(self, topology: Topology, machine_cores: int) -> None:
        links = topology.links
        by_name: dict[str, int] = {}
        shared = [by_name.setdefault(link.shared, index) if link.shared else index for index, link in enumerate(links)]
        self.of_link = np.array(shared, dtype=np.int64)
        """The resource of each link."""
        cores = [float(cores or machine_cores) for cores in topology.host_cores]
        self.capacities = np.array([*(link.bandwidth_bytes_per_s for link in links), *cores])
        host_index = {host: len(links) + index for index, host in enumerate(topology.hosts)}
        self.host_of_device = np.array([host_index[host] for host in topology.device_hosts])
        """The resource of each device's host."""


class Network:
    """The routes of a topology, as loads on resources."""

    def __init__(self, topology: Topology, resources: Resources, policy: Policy, dead: frozenset[int] = frozenset()):
        self._topology = topology
        self._resources = resources
        self._routes = topology.routes(policy, dead)

    def incidence(self, pattern: Pattern, nodes: Ints) -> Incidence:
        """Load the resources with the flows of a pattern among each row of nodes.

        Raises RunError where nodes cannot reach each other.
        """
        sources, targets = pattern.pairs()
        rows_at_once = max(1, _MOST_PAIRS_AT_ONCE // max(1, len(sources)))
        parts = [
            self._part(pattern, nodes[first : first + rows_at_once], sources, targets, first)
            for first in range(0, len(nodes), rows_at_once)
        ]
        return Incidence(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _part(self, pattern: Pattern, nodes: Ints, sources: Ints, targets: Ints, first_row: int) -> Incidence:
        pairs = max(1, len(sources))
        paths = self._routes.paths(nodes[:, sources].ravel(), nodes[:, targets].ravel())
        if len(paths.unreached):
            row, pair = divmod(int(paths.unreached[0]), pairs)
            ends = (self._topology.nodes[nodes[row, end[pair]]] for end in (sources, targets))
            raise RunError("no path leads from {!r} to {!r}: a link that failed was the only one".format(*ends))
        rows, links, shares = paths.pair // pairs, paths.link, paths.share
        if pattern.merged:
            rows, links, shares = _without_repeats(rows, links, shares)
        resources = len(self._resources.capacities)
        key, entry = np.unique(rows * resources + self._resources.of_link[links], return_inverse=True)
        weights: Floats = np.bincount(entry, weights=shares, minlength=len(key)).astype(np.float64)
        rows, used = np.divmod(key, resources)
        latency_s = paths.latency_s.reshape(len(nodes), -1).max(axis=1, initial=0.0)
        return Incidence(rows + first_row, used, weights, latency_s)

    def alone_rate(self, incidence: Incidence, weight: float, cap: float) -> Floats:
        """Give each row's largest rate when nothing else uses the resources; each flow weighs `weight`."""
        rates = np.full(len(incidence.latency_s), cap)
        limits = self._resources.capacities[incidence.resource] / (incidence.weight * weight)
        np.minimum.at(rates, incidence.row, limits)
        return rates

    def hosts(self, devices: Ints) -> Incidence:
        """Load one core of the host of each row's first device."""
        rows = np.arange(len(devices))
        hosts = self._resources.host_of_device[devices[:, 0]]
        return Incidence(rows, hosts, np.ones(len(rows)), np.zeros(len(rows)))


def _without_repeats(row: Ints, link: Ints, share: Floats) -> tuple[Ints, Ints, Floats]:
    """Count each link once a row, with its largest share."""
    order = np.lexsort((-share, link, row))
    row, link, share = row[order], link[order], share[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (link[1:] != link[:-1])
    return row[first], link[first], share[first]
