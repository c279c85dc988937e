"""From a specification to a topology graph: one function a builder.

Hosts are named host0, host1, ..., their devices host0/device0, ..., and switches by their place in the fabric.
The drawings leave the devices out where each is linked to its host alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import networkx as nx

from twinstep.garbage import paused_garbage_collection
from twinstep.topologies.fabrics import (
    Dragonfly,
    Fabric,
    FatTree,
    FullyConnected,
    OneHost,
    Rail,
    Ring,
    Star,
    Torus,
    TwoTier,
)
from twinstep.topologies.graph import Topology
from twinstep.topologies.listed import listed
from twinstep.topologies.specification import BuilderSpec, Graph
from twinstep.topologies.wiring import add_hosts, add_switches, join, parted

_Pairs = Iterator[tuple[str, str]]


def build(spec: BuilderSpec) -> Topology:
    """Build the topology that a specification describes.

    Raises TopologyError, an InputError, where its parts do not fit together.
    """
    with paused_garbage_collection():
        return Topology(_BUILDERS[type(spec)](spec))


def one_host(spec: OneHost) -> nx.DiGraph[str]:
    """Build a host with its devices.

    >>> spec = OneHost.model_validate({"builder": "one_host", "devices": 2, "device": "cpu"})
    >>> [link.target for link in build(spec).path("host0/device0", "host0/device1")]
    ['host0', 'host0/device1']
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    add_hosts(graph, 1, spec.devices, spec, spec.link)
    return graph


def star(spec: Star) -> nx.DiGraph[str]:
    """Build hosts around one switch."""
    graph, hosts = _with_hosts(spec, spec.hosts)
    (switch,) = add_switches(graph, ["switch0"])
    join(graph, ((host, switch) for host in hosts), spec.link)
    return graph


def ring(spec: Ring) -> nx.DiGraph[str]:
    """Build hosts in a cycle; two hosts share one link."""
    graph, hosts = _with_hosts(spec, spec.hosts)
    join(graph, _neighbours(hosts, [spec.hosts]), spec.link)
    return graph


def fully_connected(spec: FullyConnected) -> nx.DiGraph[str]:
    """Build hosts that are linked pairwise: n (n - 1) / 2 links."""
    graph, hosts = _with_hosts(spec, spec.hosts)
    join(graph, combinations(hosts, 2), spec.link)
    return graph


def torus(spec: Torus) -> nx.DiGraph[str]:
    """Build a grid of hosts that is closed in each dimension; hosts are counted along the last dimension first.

    Dimensions [2, 4]; the dots of a row are one link, and columns of two hosts need none:

    .. host0 -- host1 -- host2 -- host3 ..
         |        |        |        |
    .. host4 -- host5 -- host6 -- host7 ..
    """
    graph, hosts = _with_hosts(spec, math.prod(spec.dimensions))
    join(graph, _neighbours(hosts, spec.dimensions), spec.link)
    return graph


def _neighbours(hosts: Sequence[str], dimensions: Sequence[int]) -> _Pairs:
    """Pair each host with the next along each dimension; where there are two, the first with the second alone."""
    stride = len(hosts)
    for size in dimensions:
        stride //= size
        for index, host in enumerate(hosts):
            coordinate = index // stride % size
            if size > 2 or coordinate == 0:
                yield host, hosts[index + stride * ((coordinate + 1) % size - coordinate)]


def two_tier(spec: TwoTier) -> nx.DiGraph[str]:
    r"""Build racks of hosts: rack r has switch<r>, and every rack's switch hangs on the spine.

               spine
              /     \        uplink
       switch0       switch1
       /    \         /    \     link
    host0  host1   host2  host3
    """
    graph, hosts = _with_hosts(spec, spec.racks * spec.hosts_per_rack)
    spine, *switches = add_switches(graph, ["spine", *(f"switch{rack}" for rack in range(spec.racks))])
    join(graph, ((switch, spine) for switch in switches), spec.uplink)
    join(graph, _below(switches, hosts, spec.hosts_per_rack), spec.link)
    return graph


def fat_tree(spec: FatTree) -> nx.DiGraph[str]:
    r"""Build a fat tree of k-port switches; of each pod, aggregation switch i hangs on the i-th k/2 core switches.

    The first of the four pods of k = 4, and its host0 to host3; the others hang on the same core switches.

           core0  core1        core2  core3
               \  /                \  /
        pod0/aggregation0    pod0/aggregation1
                |        \  /        |
                |        /  \        |
            pod0/edge0          pod0/edge1
             /     \             /     \
          host0   host1       host2   host3
    """
    graph, hosts = _with_hosts(spec, spec.populated)
    half, pods = spec.ports // 2, range(spec.ports)
    cores = parted(add_switches(graph, (f"core{index}" for index in range(half**2))), half)
    upper = parted(add_switches(graph, (f"pod{pod}/aggregation{i}" for pod in pods for i in range(half))), half)
    edges = parted(add_switches(graph, (f"pod{pod}/edge{index}" for pod in pods for index in range(half))), half)
    for pod in pods:
        for aggregation, above in zip(upper[pod], cores, strict=True):
            join(graph, ((aggregation, core) for core in above), spec.link)
        join(graph, product(edges[pod], upper[pod]), spec.link)
    join(graph, _below([edge for pod in edges for edge in pod], hosts, half), spec.link)
    return graph


def rail(spec: Rail) -> nx.DiGraph[str]:
    r"""Build hosts whose equal devices share the switch of a rail; a host of two devices, without host0 itself:

                      spine0
                     /      \           uplink
                rail0        rail1
                  |            |        link
          host0/nic0          host0/nic1
                  |            |        pcie_link
       host0/device0          host0/device1
                    \        /          internal_link
                    crossbar0

    The crossbar's name stands before the host's: of the two ways between devices of a host, each of two links,
    the first in natural order leads through it.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    hosts = add_hosts(graph, spec.hosts, spec.devices_per_host, spec, spec.pcie_link)
    rails = add_switches(graph, (f"rail{index}" for index in range(spec.devices_per_host)))
    spines = add_switches(graph, (f"spine{index}" for index in range(spec.spines)))
    crossbars = add_switches(graph, (f"crossbar{index}" for index in range(spec.hosts)))
    for index, switch in enumerate(rails):
        devices, nics = ([f"{host}/{noun}{index}" for host in hosts] for noun in ("device", "nic"))
        graph.add_nodes_from(((nic, {"host": host}) for nic, host in zip(nics, hosts, strict=True)), kind="nic")
        join(graph, zip(devices, crossbars, strict=True), spec.internal_link)
        join(graph, zip(devices, nics, strict=True), spec.pcie_link)
        join(graph, ((nic, switch) for nic in nics), spec.link)
    join(graph, product(rails, spines), spec.uplink)
    return graph


def dragonfly(spec: Dragonfly) -> nx.DiGraph[str]:
    r"""Build groups of routers; the links of a group to the others go to its routers in turn.

    Group 0 of four groups of two routers with a host each:

          group1  group3     group2
               \  /            |       global_link
        group0/router0 -- group0/router1    local_link
               |               |       link
             host0           host1
    """
    graph, hosts = _with_hosts(spec, spec.groups * spec.routers_per_group * spec.hosts_per_router)
    names = (f"group{group}/router{i}" for group in range(spec.groups) for i in range(spec.routers_per_group))
    routers = add_switches(graph, names)
    groups = parted(routers, spec.routers_per_group)
    join(graph, (pair for group in groups for pair in combinations(group, 2)), spec.local_link)
    join(graph, _between(groups), spec.global_link)
    join(graph, _below(routers, hosts, spec.hosts_per_router), spec.link)
    return graph


def _between(groups: Sequence[Sequence[str]]) -> _Pairs:
    """Pair a router of each group with one of each other; a group's routers take the others in turn.

    Of the other groups, `later` is number later - 1 for the earlier one, and `earlier` number earlier for the later.
    """
    for earlier, later in combinations(range(len(groups)), 2):
        one, other = groups[earlier], groups[later]
        yield one[(later - 1) % len(one)], other[earlier % len(other)]


def _with_hosts(spec: Fabric, count: int) -> tuple[nx.DiGraph[str], list[str]]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    return graph, add_hosts(graph, count, spec.devices_per_host, spec, spec.internal_link)


def _below(switches: Sequence[str], hosts: Sequence[str], hosts_per_switch: int) -> _Pairs:
    """Pair hosts with their switch: as many with each as it takes, in order."""
    return ((host, switches[index // hosts_per_switch]) for index, host in enumerate(hosts))


_BUILDERS: dict[type, Callable[[Any], nx.DiGraph[str]]] = {
    OneHost: one_host,
    Star: star,
    Ring: ring,
    FullyConnected: fully_connected,
    Torus: torus,
    TwoTier: two_tier,
    FatTree: fat_tree,
    Rail: rail,
    Dragonfly: dragonfly,
    Graph: listed,
}
