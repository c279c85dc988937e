"""How builders add nodes and links to a graph: many at a time, for there may be a hundred thousand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import networkx as nx

from twinstep.topologies.fabrics import Built
from twinstep.topologies.parts import GraphLink, LinkSpec


def add_hosts(graph: nx.DiGraph[str], count: int, devices_per_host: int, spec: Built, link: LinkSpec) -> list[str]:
    """Add hosts with their devices, `link` between each device and its host. Give the names of the hosts."""
    hosts = [f"host{index}" for index in range(count)]
    pairs = [(f"{host}/device{index}", host) for host in hosts for index in range(devices_per_host)]
    graph.add_nodes_from(hosts, kind="host", cores=spec.cores, processor=spec.processor)
    graph.add_nodes_from(((device, {"host": host}) for device, host in pairs), kind="device", profile=spec.device)
    join(graph, pairs, link)
    return hosts


def add_switches(graph: nx.DiGraph[str], names: Iterable[str]) -> list[str]:
    """Add switches. Give their names."""
    switches = list(names)
    graph.add_nodes_from(switches, kind="switch")
    return switches


def join(graph: nx.DiGraph[str], pairs: Iterable[tuple[str, str]], link: LinkSpec | GraphLink) -> None:
    """Link each pair of nodes: in both directions, or from first to second where the link is one way.

    The two directions of a half-duplex link have the same name as their attribute `shared`, which others lack.
    """
    rates = {"bandwidth_bytes_per_s": link.bandwidth, "latency_s": link.latency}
    if link.duplex == "half":
        named = ((one, other, {"shared": f"{one}--{other}"}) for one, other in pairs)
        edges = chain.from_iterable(((one, other, name), (other, one, name)) for one, other, name in named)
        graph.add_edges_from(edges, **rates)
    elif link.duplex == "full":
        both = chain.from_iterable(((one, other), (other, one)) for one, other in pairs)
        graph.add_edges_from(both, **rates)
    else:
        graph.add_edges_from(pairs, **rates)


def parted(items: Sequence[str], size: int) -> list[Sequence[str]]:
    """Cut a sequence into parts of a size, the last of which may be shorter.

    >>> parted(["host0", "host1", "host2"], 2)
    [['host0', 'host1'], ['host2']]
    """
    return [items[first : first + size] for first in range(0, len(items), size)]
