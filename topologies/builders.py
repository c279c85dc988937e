"""From a specification to a topology graph: one function a builder.

Hosts are named host0, host1, ..., their devices host0/device0, ..., and switches switch0, ...
"""

from __future__ import annotations

import networkx as nx

from twinstep.strict_yaml import did_you_mean
from twinstep.topologies.graph import Topology, TopologyError
from twinstep.topologies.specification import (
    BuilderSpec,
    Built,
    DeviceNode,
    Graph,
    GraphLink,
    HostNode,
    LinkSpec,
    Node,
    OneHost,
    Ring,
    Star,
    SwitchNode,
    TwoTier,
)
from twinstep.yaml_composer import KeyPath


def build(spec: BuilderSpec) -> Topology:
    """Build the topology that a specification describes.

    Raises TopologyError, an InputError, where its parts do not fit together.
    """
    match spec:
        case OneHost():
            return one_host(spec)
        case Star():
            return star(spec)
        case Ring():
            return ring(spec)
        case TwoTier():
            return two_tier(spec)
        case Graph():
            return explicit_graph(spec)


def one_host(spec: OneHost) -> Topology:
    """Build a host with its devices.

    >>> spec = OneHost.model_validate({"builder": "one_host", "devices": 2, "device": "cpu"})
    >>> [link.target for link in one_host(spec).path("host0/device0", "host0/device1")]
    ['host0', 'host0/device1']
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    _add_host(graph, "host0", spec, spec.devices, spec.link)
    return Topology(graph)


def star(spec: Star) -> Topology:
    """Build hosts around one switch."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("switch0", kind="switch")
    for host in _add_hosts(graph, spec.hosts, spec):
        _add_link(graph, host, "switch0", spec.link)
    return Topology(graph)


def ring(spec: Ring) -> Topology:
    """Build hosts in a cycle; two hosts share one full-duplex link."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    hosts = _add_hosts(graph, spec.hosts, spec)
    for host, following in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
        _add_link(graph, host, following, spec.link)
    return Topology(graph)


def two_tier(spec: TwoTier) -> Topology:
    r"""Build racks of hosts: rack r has switch<r>, and every rack's switch hangs on the spine.

               spine
              /     \        uplink
       switch0       switch1
       /    \         /    \     link
    host0  host1   host2  host3
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    hosts = _add_hosts(graph, spec.racks * spec.hosts_per_rack, spec)
    graph.add_node("spine", kind="switch")
    for rack in range(spec.racks):
        switch = f"switch{rack}"
        graph.add_node(switch, kind="switch")
        _add_link(graph, switch, "spine", spec.uplink)
        for host in hosts[rack * spec.hosts_per_rack : (rack + 1) * spec.hosts_per_rack]:
            _add_link(graph, host, switch, spec.link)
    return Topology(graph)


def explicit_graph(spec: Graph) -> Topology:
    """Build what the lists of nodes and links say.

    Raises TopologyError for a name that is given twice or not at all, and for a link that is listed twice.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    for index, node in enumerate(spec.nodes):
        if node.name in graph:
            problem, remedy = f"two nodes have the name {node.name!r}", "rename one of them"
            raise TopologyError(problem, remedy=remedy, path=("nodes", index, "name"))
        _add_node(graph, node)
    for index, node in enumerate(spec.nodes):
        if isinstance(node, DeviceNode):
            _require(graph, node.host, ("nodes", index, "host"), "host")
            _add_link(graph, node.name, node.host, node.link)
    for index, link in enumerate(spec.links):
        _add_listed_link(graph, link, ("links", index))
    return Topology(graph)


def _add_node(graph: nx.DiGraph[str], node: Node) -> None:
    match node:
        case HostNode():
            graph.add_node(node.name, kind="host", cores=node.cores)
        case DeviceNode():
            graph.add_node(node.name, kind="device", host=node.host, profile=node.device)
        case SwitchNode():
            graph.add_node(node.name, kind="switch")


def _add_listed_link(graph: nx.DiGraph[str], link: GraphLink, path: KeyPath) -> None:
    _require(graph, link.source, (*path, "source"))
    _require(graph, link.target, (*path, "target"))
    if link.source == link.target:
        raise TopologyError(f"a link joins {link.source!r} to itself", remedy="name two nodes", path=path)
    both = link.duplex == "full"
    if graph.has_edge(link.source, link.target) or (both and graph.has_edge(link.target, link.source)):
        problem = f"{link.source!r} and {link.target!r} are linked already"
        remedy = "remove one of the links; that of a device to its host is the `link` of the device"
        raise TopologyError(problem, remedy=remedy, path=path)
    _add_link(graph, link.source, link.target, link, both_ways=both)


def _require(graph: nx.DiGraph[str], name: str, path: KeyPath, kind: str | None = None) -> None:
    """Refuse a reference to a node that does not exist, or is not of the kind that is wanted."""
    if name not in graph or kind not in (None, graph.nodes[name]["kind"]):
        known = [node for node in graph if kind in (None, graph.nodes[node]["kind"])]
        raise TopologyError(f"there is no {kind or 'node'} {name!r}", remedy=did_you_mean(name, known), path=path)


def _add_hosts(graph: nx.DiGraph[str], count: int, spec: Star | Ring | TwoTier) -> list[str]:
    hosts = [f"host{index}" for index in range(count)]
    for host in hosts:
        _add_host(graph, host, spec, spec.devices_per_host, spec.internal_link)
    return hosts


def _add_host(graph: nx.DiGraph[str], host: str, spec: Built, devices: int, link: LinkSpec) -> None:
    graph.add_node(host, kind="host", cores=spec.cores)
    for index in range(devices):
        device = f"{host}/device{index}"
        graph.add_node(device, kind="device", host=host, profile=spec.device)
        _add_link(graph, device, host, link)


def _add_link(graph: nx.DiGraph[str], one: str, other: str, link: LinkSpec, *, both_ways: bool = True) -> None:
    for source, target in ((one, other), (other, one)) if both_ways else ((one, other),):
        graph.add_edge(source, target, bandwidth_bytes_per_s=link.bandwidth, latency_s=link.latency)
