"""From lists of nodes and links to a topology graph."""

from __future__ import annotations

import networkx as nx

from twinstep.strict_yaml import did_you_mean
from twinstep.topologies.graph import TopologyError
from twinstep.topologies.parts import DeviceNode, GraphLink, HostNode, NicNode, Node, StorageNode, SwitchNode
from twinstep.topologies.specification import Graph
from twinstep.topologies.wiring import join
from twinstep.yaml_composer import KeyPath


def listed(spec: Graph) -> nx.DiGraph[str]:
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
        if isinstance(node, DeviceNode | NicNode):
            _require(graph, node.host, ("nodes", index, "host"), "host")
        if isinstance(node, DeviceNode):
            join(graph, [(node.name, node.host)], node.link)
    for index, link in enumerate(spec.links):
        _add_link(graph, link, ("links", index))
    return graph


def _add_node(graph: nx.DiGraph[str], node: Node) -> None:
    match node:
        case HostNode():
            graph.add_node(node.name, kind=node.kind, cores=node.cores, processor=node.processor)
        case DeviceNode():
            graph.add_node(node.name, kind=node.kind, host=node.host, profile=node.device)
        case NicNode():
            graph.add_node(node.name, kind=node.kind, host=node.host)
        case SwitchNode() | StorageNode():
            graph.add_node(node.name, kind=node.kind)


def _add_link(graph: nx.DiGraph[str], link: GraphLink, path: KeyPath) -> None:
    _require(graph, link.source, (*path, "source"))
    _require(graph, link.target, (*path, "target"))
    if link.source == link.target:
        raise TopologyError(f"a link joins {link.source!r} to itself", remedy="name two nodes", path=path)
    both = link.duplex != "one_way"
    if graph.has_edge(link.source, link.target) or (both and graph.has_edge(link.target, link.source)):
        problem = f"{link.source!r} and {link.target!r} are linked already"
        remedy = "remove one of the links; that of a device to its host is the `link` of the device"
        raise TopologyError(problem, remedy=remedy, path=path)
    join(graph, [(link.source, link.target)], link)


def _require(graph: nx.DiGraph[str], name: str, path: KeyPath, kind: str | None = None) -> None:
    """Refuse a reference to a node that does not exist, or is not of the kind that is wanted."""
    if name not in graph or kind not in (None, graph.nodes[name]["kind"]):
        known = [node for node in graph if kind in (None, graph.nodes[node]["kind"])]
        raise TopologyError(f"there is no {kind or 'node'} {name!r}", remedy=did_you_mean(name, known), path=path)
