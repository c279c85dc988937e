"""The topology graph: hosts, devices and switches, and the directed links between them.

A full-duplex link is two directed links. A route is the shortest in hops; of several, the one whose sequence
of node names comes first in natural order, in which host2 comes before host10. So the way back may use other
nodes than the way there. The order of the devices is that of the ranks.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import networkx as nx

from twinstep.errors import InputError
from twinstep.strict_yaml import did_you_mean
from twinstep.topologies.specification import DeviceSpec

NodeKind = Literal["host", "device", "switch"]


class TopologyError(InputError):
    """A topology that cannot be built."""

    def __init__(self, problem: str, *, remedy: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(problem, remedy=remedy)
        self.path = path
        """The key path of the bad part within the topology's specification."""


class Link(NamedTuple):
    """One direction of a link."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Give a sort key that compares the numbers in names as numbers.

    >>> sorted(["host10", "host2", "host1/device0"], key=natural_order)
    ['host1/device0', 'host2', 'host10']
    """
    parts = re.split("([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


class Topology:
    """A validated and frozen topology graph.

    The nodes of `graph` have a `kind` (host, device or switch); hosts also have `cores`, devices `host` and
    `profile`. Its edges have `bandwidth_bytes_per_s` and `latency_s`. The constructor freezes it.

    Raises TopologyError, an InputError, where a device has no host or no links to it, where a bandwidth is
    not positive and finite, or where a device cannot reach another.
    """

    def __init__(self, graph: nx.DiGraph[str]) -> None:
        self.graph = nx.freeze(graph)
        self.hosts = self._of_kind("host")
        self.devices = self._of_kind("device")
        """The devices by rank."""
        self.switches = self._of_kind("switch")
        self.validate()
        ends = sorted(graph.edges, key=lambda edge: (natural_order(edge[0]), natural_order(edge[1])))
        self._links = {edge: Link(*edge, **graph.edges[edge]) for edge in ends}
        self.links = tuple(self._links.values())
        """Every directed link, by the natural order of its ends."""
        self._leaves = frozenset(device for device in self.devices if self._is_leaf(device))
        self._next = self._successors_in_order()
        self._routes: dict[tuple[str, str], tuple[str, ...]] = {}

    def host_of(self, device: str) -> str:
        """Give the host that a device belongs to. Raises InputError where there is no such device."""
        return cast("str", self._attribute("device", device, "host"))

    def device_profile(self, device: str) -> DeviceSpec:
        """Give `cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates.

        Raises InputError where there is no such device.
        """
        return cast("DeviceSpec", self._attribute("device", device, "profile"))

    def cores_of(self, host: str) -> int | None:
        """Give the cores of a host; None stands for those of the calibrated machine.

        Raises InputError where there is no such host.
        """
        return cast("int | None", self._attribute("host", host, "cores"))

    def path(self, source: str, target: str) -> tuple[Link, ...]:
        """Give the links from one device to another, or between any two nodes; none from a node to itself.

        The path is the shortest in hops; of several, the first in the natural order of its nodes.
        Raises InputError where there is no such node, or no path.
        """
        for node in (source, target):
            if node not in self.graph:
                raise InputError(f"there is no node {node!r}", remedy=did_you_mean(node, tuple(self.graph)))
        if source == target:
            return ()
        start = self.host_of(source) if source in self._leaves else source
        end = self.host_of(target) if target in self._leaves else target
        first, last = (source,) if source != start else (), (target,) if target != end else ()
        return tuple(self._links[edge] for edge in pairwise((*first, *self._route(start, end), *last)))

    def validate(self) -> None:
        """Check the graph, as the constructor does. Raises TopologyError naming the nodes."""
        if not self.devices:
            raise TopologyError("there is no device", remedy="add one: ranks run on devices")
        for device in self.devices:
            _check_device(self.graph, device)
        for source, target, link in self.graph.edges(data=True):
            _check_link(source, target, link["bandwidth_bytes_per_s"], link["latency_s"])
        _check_connected(self.graph, self.devices)

    def _of_kind(self, kind: NodeKind) -> tuple[str, ...]:
        return tuple(node for node, found in self.graph.nodes(data="kind") if found == kind)

    def _attribute(self, kind: NodeKind, node: str, name: str) -> object:
        if node not in self.graph or self.graph.nodes[node]["kind"] != kind:
            remedy = did_you_mean(node, self._of_kind(kind))
            raise InputError(f"there is no {kind} {node!r}", remedy=remedy)
        return self.graph.nodes[node][name]

    def _is_leaf(self, device: str) -> bool:
        """Tell whether a device is linked to its host alone, so that no route leads through it."""
        alone = {self.host_of(device)}
        return set(self.graph.succ[device]) == alone == set(self.graph.pred[device])

    def _successors_in_order(self) -> Mapping[str, Sequence[str]]:
        """Give each node's successors but for leaves, in natural order, which is that of the links."""
        successors: dict[str, list[str]] = {node: [] for node in self.graph}
        for source, target in self._links:
            if target not in self._leaves:
                successors[source].append(target)
        return successors

    def _route(self, start: str, end: str) -> tuple[str, ...]:
        """Give the nodes of the path between two nodes that are not leaves, both included."""
        if (start, end) not in self._routes:
            hops = self._hops_to(end, start)
            if start not in hops:
                problem = f"no path leads from {start!r} to {end!r}"
                raise InputError(problem, remedy="add the links that are missing")
            nodes = [start]
            while (here := nodes[-1]) != end:
                nodes.append(next(node for node in self._next[here] if hops.get(node) == hops[here] - 1))
            self._routes[start, end] = tuple(nodes)
        return self._routes[start, end]

    def _hops_to(self, end: str, start: str) -> Mapping[str, int]:
        """Give the distance to `end` of every node that is nearer to it than `start`, and of `start`."""
        hops, reached = {end: 0}, deque([end])
        while reached and start not in hops:
            here = reached.popleft()
            for node in self.graph.pred[here]:
                if node not in hops and node not in self._leaves:
                    hops[node] = hops[here] + 1
                    reached.append(node)
        return hops


def _check_device(graph: nx.DiGraph[str], device: str) -> None:
    host = graph.nodes[device]["host"]
    if host not in graph or graph.nodes[host]["kind"] != "host":
        hosts = [node for node in graph if graph.nodes[node]["kind"] == "host"]
        problem = f"device {device!r} names {host!r}, which is no host"
        raise TopologyError(problem, remedy=did_you_mean(host, hosts))
    if not (graph.has_edge(device, host) and graph.has_edge(host, device)):
        remedy = "link the two in both directions"
        raise TopologyError(f"device {device!r} has no full-duplex link to its host {host!r}", remedy=remedy)


def _check_link(source: str, target: str, bandwidth_bytes_per_s: float, latency_s: float) -> None:
    if not 0 < bandwidth_bytes_per_s < math.inf:
        problem = f"the link from {source!r} to {target!r} has the bandwidth {bandwidth_bytes_per_s} bytes/s"
        raise TopologyError(problem, remedy="give a positive and finite bandwidth, for example '100 Gb/s'")
    if not 0 <= latency_s < math.inf:
        problem = f"the link from {source!r} to {target!r} has the latency {latency_s} s"
        raise TopologyError(problem, remedy="give a finite latency that is not negative, for example '1 us'")


def _check_connected(graph: nx.DiGraph[str], devices: Sequence[str]) -> None:
    first = devices[0]
    forth, back = nx.descendants(graph, first), nx.ancestors(graph, first)
    for device in devices[1:]:
        if device not in forth or device not in back:
            source, target = (first, device) if device not in forth else (device, first)
            problem = f"no path leads from device {source!r} to device {target!r}"
            raise TopologyError(problem, remedy="add the links that are missing: ranks must reach each other")
