"""The blueprint: what is drawn carries every flow the way the simulator sends it, over cables that fit together."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from ipaddress import IPv4Address
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from tests.small_plans import LINK, RATES, make

from twinstep.errors import InputError
from twinstep.exec.emulated.blueprint import MOST_NODES, Blueprint, blueprint
from twinstep.exec.emulated.next_hops import Ways, next_hops, sources_by_link
from twinstep.plan import Plan
from twinstep.topologies import Topology

COLLECTIVE = {"kind": "collective", "collective": "all_reduce", "size": "1 MB"}
RUN = {"steps": 1, "warmup": 0, "compute": "emulated", "backend": "emulated"}
UNLIKE = {"bandwidth": "3 Gb/s", "latency": "7 us"}
LONGEST_PORT = 15  # Linux's IFNAMSIZ, without the zero at the end


def drawn(topology: dict[str, Any], ranks: int, routing: str = "shortest", **run: Any) -> tuple[Plan, Topology]:
    """Make a plan for an emulated cluster."""
    communication = {"routing": routing}
    partition = {"data": ranks}
    return make(topology, workload=COLLECTIVE, partition=partition, communication=communication, run=RUN | run)


def host(name: str) -> list[dict[str, Any]]:
    return [{"kind": "host", "name": name}, {"kind": "device", "name": f"{name}/0", "host": name, "device": RATES}]


def graph(nodes: list[dict[str, Any]], *links: tuple[str, str, dict[str, str]]) -> dict[str, Any]:
    listed = [{"source": source, "target": target, **rates} for source, target, rates in links]
    return {"builder": "graph", "nodes": nodes, "links": listed}


ONE_WAY = LINK | {"duplex": "one_way"}
HOSTS = [node for name in "abc" for node in host(name)]
CIRCLE = graph(HOSTS, ("a", "b", ONE_WAY), ("b", "c", ONE_WAY), ("c", "a", ONE_WAY))
UNEQUAL = graph(HOSTS, ("a", "b", ONE_WAY), ("b", "a", UNLIKE | {"duplex": "one_way"}), ("b", "c", LINK))
NICS = [{"kind": "nic", "name": f"{name}/card", "host": name} for name in "ab"]
CARDS = graph(
    [*HOSTS, *NICS, {"kind": "switch", "name": "s"}, {"kind": "storage", "name": "disks"}],
    *((name, f"{name}/card", LINK) for name in "ab"),
    *((f"{name}/card", "s", UNLIKE) for name in "ab"),
    ("c", "s", LINK),
    ("disks", "s", LINK),
)
DIRECT = graph(HOSTS, ("a/0", "b/0", LINK), ("b", "c", LINK))
"""Two devices are linked to each other; c is beyond the second one's host."""
FAT = {"builder": "fat_tree", "ports": 4, "link": LINK}
RAIL = {"builder": "rail", "hosts": 3, "spines": 2, "link": LINK, "uplink": LINK}
TWO_TIER = {"builder": "two_tier", "racks": 3, "hosts_per_rack": 2, "link": LINK, "uplink": UNLIKE}

FABRICS: dict[str, tuple[dict[str, Any], int]] = {
    "star": ({"builder": "star", "hosts": 5, "link": LINK}, 5),
    "star, hosts of 2, 1 and no ranks": ({"builder": "star", "hosts": 5, "devices_per_host": 2, "link": LINK}, 7),
    "ring of 2": ({"builder": "ring", "hosts": 2, "link": LINK}, 2),
    "ring of 6": ({"builder": "ring", "hosts": 6, "link": LINK}, 6),
    "ring of 7": ({"builder": "ring", "hosts": 7, "link": LINK}, 4),
    "two tiers": (TWO_TIER, 6),
    "fat tree": (FAT, 16),
    "fat tree, few ranks": (FAT, 3),
    "torus": ({"builder": "torus", "dimensions": [3, 4], "link": LINK}, 12),
    "flat torus": ({"builder": "torus", "dimensions": [2, 4], "link": LINK}, 8),
    "rail of one device": (RAIL, 3),
    "circle of one-way links": (CIRCLE, 3),
    "unequal directions": (UNEQUAL, 3),
    "cards and storage": (CARDS, 3),
    "devices linked directly": (DIRECT, 3),
}


def tangle(seed: int) -> tuple[dict[str, Any], int]:
    """Make a random graph: a tree of cables, and more of them, some of them one way."""
    generator = random.Random(seed)
    hosts, switches = ([f"{noun}{number}" for number in range(6)] for noun in ("h", "s"))
    names = generator.sample(hosts + switches, 12)
    pairs = [(name, generator.choice(names[:place])) for place, name in enumerate(names) if place]
    links = dict.fromkeys(pairs, LINK)
    for _ in range(8):
        one, other = generator.sample(names, 2)
        if (one, other) not in links and (other, one) not in links:
            links[one, other] = LINK | {"duplex": generator.choice(["full", "one_way"])}
    nodes = [node for name in hosts for node in host(name)] + [{"kind": "switch", "name": name} for name in switches]
    return graph(nodes, *((*ends, rates) for ends, rates in links.items())), generator.randint(1, 6)


FABRICS |= {f"tangle {seed}": tangle(seed) for seed in range(6)}
EVERY_FABRIC = pytest.mark.parametrize("name", FABRICS)
EVERY_ROUTING = pytest.mark.parametrize("routing", ["shortest", "ecmp"])


def place(topology: Topology, node: str) -> str:
    """Name the namespace of a node."""
    return topology.host_of(node) if node in topology.devices else node


def simulated(plan: Plan, topology: Topology) -> dict[tuple[str, str], list[list[str]]]:
    """Give for each two places the ways, as namespaces, that the simulator has for flows between their ranks."""
    kinds = topology.graph.nodes(data="kind")
    places = [node for node in topology.nodes if kinds[node] in ("host", "storage")]
    ranks = topology.devices[: plan.ranks]
    ends = {name: [device for device in ranks if topology.host_of(device) == name] or [name] for name in places}
    pairs = [(a, b) for one, other in permutations(places, 2) for a in ends[one] for b in ends[other]]
    ids = np.array([[topology.node_ids[node] for node in pair] for pair in pairs])
    paths = topology.routes(plan.communication.routing).paths(ids[:, 0], ids[:, 1])
    following: dict[int, dict[str, str]] = defaultdict(dict)
    for pair, link in zip(paths.pair.tolist(), paths.link.tolist(), strict=True):
        following[pair][topology.links[link].source] = topology.links[link].target
    found: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for number, (node, target) in enumerate(pairs):
        nodes = [node]
        while nodes[-1] != target:
            nodes.append(following[number][nodes[-1]])
        passed = list(dict.fromkeys(place(topology, each) for each in nodes))
        found[passed[0], passed[-1]].append(passed)
    return found


def far_ends(drawing: Blueprint) -> Mapping[int, str]:
    """Give for each link the namespace at the other end of its cable."""
    pairs = [pair for near, far in (cable.ends for cable in drawing.cables) for pair in ((near, far), (far, near))]
    return {near.link: far.node for near, far in pairs if near.link is not None}


def followed(drawing: Blueprint, source: str, target: str) -> tuple[list[str], list[int]]:
    """Go from namespace to namespace as the rules and cables say; give these and the links on the way."""
    hops = {(hop.node, hop.target, hop.source): hop.link for hop in drawing.hops}
    assert len(hops) == len(drawing.hops)
    beyond, ports = far_ends(drawing), drawing.ports
    nodes, links = [source], list[int]()
    while nodes[-1] != target:
        links.append(hops.get((nodes[-1], target, source), hops[nodes[-1], target, None]))
        assert ports[links[-1]].node == nodes[-1]
        nodes.append(beyond[links[-1]])
        assert len(nodes) <= len(drawing.nodes)
    return nodes, links


def check_ways(plan: Plan, topology: Topology) -> None:
    """Check that every place reaches every other, and that all flows between two go as in the simulator."""
    drawing = blueprint(plan, topology)
    expected = simulated(plan, topology)
    assert len(expected) == len(drawing.addresses) * (len(drawing.addresses) - 1)
    for (source, target), ways in expected.items():
        nodes, _ = followed(drawing, source, target)
        assert all(way == nodes for way in ways)


@EVERY_ROUTING
@EVERY_FABRIC
def test_every_place_reaches_every_other_as_in_the_simulator(name: str, routing: str) -> None:
    check_ways(*drawn(*FABRICS[name], routing))


@EVERY_ROUTING
@EVERY_FABRIC
def test_sources_of_a_link_are_those_whose_flows_cross_it(name: str, routing: str) -> None:
    plan, topology = drawn(*FABRICS[name], routing)
    drawing = blueprint(plan, topology)
    crossing: dict[int, set[str]] = defaultdict(set)
    for source, target in simulated(plan, topology):
        for link in followed(drawing, source, target)[1]:
            crossing[link].add(source)
    assert {link: set(names) for link, names in drawing.sources.items()} == crossing
    assert all(len(names) == len(set(names)) for names in drawing.sources.values())


@EVERY_FABRIC
def test_every_link_between_namespaces_has_one_end_that_sends(name: str) -> None:
    plan, topology = drawn(*FABRICS[name])
    drawing = blueprint(plan, topology)
    sending = Counter(end.link for cable in drawing.cables for end in cable.ends if end.link is not None)
    ends = {index: [place(topology, node) for node in link[:2]] for index, link in enumerate(topology.links)}
    between = {index: 1 for index, (source, target) in ends.items() if source != target}
    assert sending == between
    assert drawing.links.keys() == between.keys()
    beyond, ports = far_ends(drawing), drawing.ports
    assert all([ports[index].node, beyond[index]] == ends[index] for index in between)


@EVERY_FABRIC
def test_names_and_addresses_can_be_told_apart(name: str) -> None:
    plan, topology = drawn(*FABRICS[name])
    drawing = blueprint(plan, topology)
    ports = [(end.node, end.port) for cable in drawing.cables for end in cable.ends]
    assert len(ports) == len(set(ports))
    assert all(0 < len(port) <= LONGEST_PORT for _, port in ports)
    kinds = topology.graph.nodes(data="kind")
    assert set(drawing.nodes) == {node for node in topology.nodes if kinds[node] != "device"}
    assert set(drawing.addresses) == {node for node in topology.nodes if kinds[node] in ("host", "storage")}
    assert len({IPv4Address(address) for address in drawing.addresses.values()}) == len(drawing.addresses)


def test_a_one_way_link_is_a_cable_with_one_end_that_sends() -> None:
    for near, far in (cable.ends for cable in blueprint(*drawn(CIRCLE, 3)).cables):
        assert (near.node, far.node) in [("a", "b"), ("b", "c"), ("c", "a")]
        assert near.link is not None
        assert far.link is None


def test_two_one_way_links_are_one_cable_with_two_bandwidths() -> None:
    drawing = blueprint(*drawn(UNEQUAL, 3))
    (cable,) = [cable for cable in drawing.cables if {end.node for end in cable.ends} == {"a", "b"}]
    rates = {end.node: drawing.links[end.link].bandwidth_bytes_per_s for end in cable.ends if end.link is not None}
    assert rates == {"a": 10e9 / 8, "b": 3e9 / 8}


def test_ecmp_takes_several_ways_and_shortest_one_for_each_target() -> None:
    """On a fat tree flows to one host meet at its edge switch, but leave another one by either of two links."""
    shortest, ecmp = (blueprint(*drawn(FAT, 16, routing)) for routing in ("shortest", "ecmp"))
    assert not any(hop.source for hop in shortest.hops)
    assert any(hop.source for hop in ecmp.hops)


def test_two_ranks_of_a_host_may_share_its_way() -> None:
    """By shortest paths all flows between two hosts go one way, however many ranks they have."""
    plan, topology = drawn(FAT | {"devices_per_host": 2}, 32)
    assert {len(ways) for ways in simulated(plan, topology).values()} == {4}
    check_ways(plan, topology)


def test_the_way_that_most_flows_take_is_the_plain_one() -> None:
    """Three sources meet at s; two of them go on by link 5, one by link 6."""
    found: Ways = {("a", "z"): {"a": 1, "s": 6}, ("b", "z"): {"b": 2, "s": 5}, ("c", "z"): {"c": 3, "s": 5}}
    at_s = [(hop.source, hop.link) for hop in next_hops(found) if hop.node == "s"]
    assert at_s == [(None, 5), ("a", 6)]
    assert sources_by_link(found) == {1: ("a",), 6: ("a",), 2: ("b",), 5: ("b", "c"), 3: ("c",)}


def test_a_link_change_is_built_in_both_directions() -> None:
    change = {"source": "host1", "target": "switch0", "bandwidth": "2 Gb/s"}
    before, after = (blueprint(*drawn(FABRICS["star"][0], 5, link_changes=changes)) for changes in ([], [change]))
    changed = {("host1", "switch0"), ("switch0", "host1")}
    for index, link in after.links.items():
        rate = 2e9 / 8 if link[:2] in changed else 10e9 / 8
        assert link == before.links[index]._replace(bandwidth_bytes_per_s=rate)
    assert (before.cables, before.hops) == (after.cables, after.hops)


def test_as_many_nodes_as_there_may_be_are_drawn() -> None:
    most = {"builder": "star", "hosts": MOST_NODES - 1, "link": LINK}
    assert len(blueprint(*drawn(most, 2)).nodes) == MOST_NODES
    with pytest.raises(InputError, match=f"{MOST_NODES + 1} hosts and switches: {MOST_NODES} can be emulated at most"):
        blueprint(*drawn(most | {"hosts": MOST_NODES}, 2))


HALF = graph(HOSTS, ("a", "b", LINK | {"duplex": "half"}), ("b", "c", LINK))


def flow(source: str, target: str) -> dict[str, str]:
    return {"kind": "flow", "source": source, "target": target, "size": "1 MB"}


@pytest.mark.parametrize(
    ("plan", "run", "problem"),
    [
        ((FAT, 16, "spray"), {}, "communication.routing is spray"),
        ((HALF, 3), {}, "between 'a' and 'b' is half duplex"),
        ((FAT | {"devices_per_host": 2}, 32, "ecmp"), {}, "flows from 'host[0-9]+' to 'host[0-9]+' leave 'pod"),
        ((RAIL | {"devices_per_host": 2}, 6), {}, "flows from 'host0' to 'host1' leave 'host0' for"),
        ((FABRICS["star"][0], 5), {"background": [flow("host0", "switch0")]}, "names 'switch0', a switch"),
        ((CARDS, 3), {"background": [flow("a/card", "c")]}, "names 'a/card', a nic"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_remedy(plan: Any, run: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        blueprint(*drawn(*plan, **run))
    assert caught.value.remedy


def test_background_flows_between_hosts_devices_and_storage_are_built() -> None:
    assert blueprint(*drawn(CARDS, 3, background=[flow("a", "b/0"), flow("disks", "c")])).nodes


def test_a_host_without_ranks_whose_device_has_the_card_is_reached() -> None:
    """On rails the way from a host leads through its device, also where no rank is on that."""
    check_ways(*drawn(RAIL, 2))


def test_ecmp_sends_flows_of_others_the_way_that_is_predicted() -> None:
    pairs = list(permutations([f"host{number}" for number in range(8, 16)], 2))
    flows = [flow(f"{one}/device0", f"{other}/device0") for one, other in pairs]
    plan, topology = drawn(FAT, 2, "ecmp", background=flows)
    drawing = blueprint(plan, topology)
    ids = np.array([[topology.node_ids[f"{name}/device0"] for name in pair] for pair in pairs])
    paths = topology.routes("ecmp").paths(ids[:, 0], ids[:, 1])
    crossed = set(zip(paths.pair.tolist(), paths.link.tolist(), strict=True))
    for number, pair in enumerate(pairs):
        assert {(number, link) for link in followed(drawing, *pair)[1]} <= crossed
