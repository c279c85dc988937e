"""The topology graph: hosts, devices, switches, NICs and storage, and the directed links between them.

A full-duplex link is two directed links; the two of a half-duplex one share their bandwidth. The order of the devices
is that of the ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import networkx as nx
import numpy as np

from twinstep.errors import InputError
from twinstep.strict_yaml import did_you_mean
from twinstep.topologies.core_routes import Policy
from twinstep.topologies.link import Link
from twinstep.topologies.parts import DeviceSpec, ProcessorRates
from twinstep.topologies.routes import Routes

NodeKind = Literal["host", "device", "switch", "nic", "storage"]


class TopologyError(InputError):
    """A topology that cannot be built."""

    def __init__(self, problem: str, *, remedy: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(problem, remedy=remedy)
        self.path = path
        """The key path of the bad part within the topology's specification."""


def natural_order(name: str) -> tuple[tuple[str | int, ...], str]:
    """Give a sort key that compares the numbers in names as numbers.

    >>> sorted(["host10", "host2", "host1/device0"], key=natural_order)
    ['host1/device0', 'host2', 'host10']
    """
    parts = re.split("([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


class Topology:
    """A validated and frozen topology graph.

    The nodes of `graph` have a `kind`; hosts also have `cores` and perhaps a `processor`, devices `host` and
    `profile`. Its edges have what `Link` has. The constructor freezes it.

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
        self.nodes = tuple(sorted(graph, key=natural_order))
        """Every node, in natural order."""
        self.node_ids = ids = {node: index for index, node in enumerate(self.nodes)}
        """The index of each node in `nodes`."""
        edges = sorted((ids[source], ids[target], link) for source, target, link in graph.edges(data=True))
        self.links = tuple(Link(self.nodes[source], self.nodes[target], **link) for source, target, link in edges)
        """Every directed link, by the natural order of its ends."""

    @cached_property
    def device_hosts(self) -> tuple[str, ...]:
        """The host of each device, by rank."""
        return self._values("device", "host")

    @cached_property
    def device_profiles(self) -> tuple[DeviceSpec, ...]:
        """What each device is, by rank."""
        return self._values("device", "profile")

    @cached_property
    def host_cores(self) -> tuple[int | None, ...]:
        """The cores of each host; None stands for those of the calibrated machine."""
        return self._values("host", "cores")

    @cached_property
    def processors(self) -> Mapping[str, ProcessorRates]:
        """The processors of the hosts that state one, by host."""
        found = ((host, self.graph.nodes[host].get("processor")) for host in self.hosts)
        return {host: processor for host, processor in found if processor is not None}

    def host_of(self, device: str) -> str:
        """Give the host that a device belongs to. Raises InputError where there is no such device."""
        return cast("str", self._attribute("device", device, "host"))

    def place_of(self, node: str) -> str:
        """Give the host of a device, and any other node itself."""
        found = self.graph.nodes[node]
        return cast("str", found["host"]) if found["kind"] == "device" else node

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

    def routes(self, policy: Policy = "shortest", dead: frozenset[int] = frozenset()) -> Routes:
        """Give the routes by a policy; links whose indices are in `dead` carry nothing."""
        ids = self.node_ids
        ends = np.array([(ids[link.source], ids[link.target]) for link in self.links], dtype=np.int64).reshape(-1, 2)
        return Routes(len(self.nodes), self.links, ends, policy, dead)

    def path(self, source: str, target: str) -> tuple[Link, ...]:
        """Give the links from one node to another; none from a node to itself.

        The path is the shortest in hops; of several, the first in the natural order of its nodes.
        Raises InputError where there is no such node, or no path.
        """
        for node in (source, target):
            if node not in self.graph:
                raise InputError(f"there is no node {node!r}", remedy=did_you_mean(node, tuple(self.graph)))
        ends = (np.array([self.node_ids[node]]) for node in (source, target))
        found = self._shortest.paths(*ends)
        if len(found.unreached):
            raise InputError(f"no path leads from {source!r} to {target!r}", remedy="add the links that are missing")
        following = {self.links[index].source: self.links[index] for index in found.link}
        links: list[Link] = []
        while source != target:
            links.append(following[source])
            source = links[-1].target
        return tuple(links)

    @cached_property
    def _shortest(self) -> Routes:
        return self.routes()

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

    def _values(self, kind: NodeKind, name: str) -> tuple[Any, ...]:
        return tuple(data[name] for _, data in self.graph.nodes(data=True) if data["kind"] == kind)

    def _attribute(self, kind: NodeKind, node: str, name: str) -> object:
        if node not in self.graph or self.graph.nodes[node]["kind"] != kind:
            remedy = did_you_mean(node, self._of_kind(kind))
            raise InputError(f"there is no {kind} {node!r}", remedy=remedy)
        return self.graph.nodes[node][name]


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
