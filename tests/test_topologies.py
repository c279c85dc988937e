"""The topology graph: routes and their tie-breaks, links, nodes of each kind, and graphs that are refused."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from pydantic import TypeAdapter

from twinstep.errors import InputError
from twinstep.report.topology_view import topology_figure, topology_rows
from twinstep.topologies import (
    DeviceRates,
    Link,
    Topology,
    TopologyError,
    TopologySpec,
    build,
    read_topology,
)

SPEC: TypeAdapter[Any] = TypeAdapter(TopologySpec)
SLOW = {"bandwidth": "8 Gb/s", "latency": "3 us"}
FAST = {"bandwidth": "80 Gb/s", "latency": "1 us"}


def topology(**spec: Any) -> Topology:
    return build(SPEC.validate_python({"device": "cpu", **spec}))


def star(**spec: Any) -> Topology:
    return topology(**{"builder": "star", "hosts": 3, "link": SLOW, **spec})


def ring(hosts: int) -> Topology:
    return topology(builder="ring", hosts=hosts, link=SLOW)


def graph(text: str, **links: str) -> Topology:
    """Build a graph of hosts with a device each from "a-b b-c": the device of host a is a/0."""
    ends = [link.split("-") for link in text.split()]
    hosts = list(dict.fromkeys(name for pair in ends for name in pair))
    nodes = [{"kind": "host", "name": host} for host in hosts]
    nodes += [{"kind": "device", "name": f"{host}/0", "host": host, "device": "cpu"} for host in hosts]
    listed = [{"source": a, "target": b, **SLOW, **links} for a, b in ends]
    return build(SPEC.validate_python({"builder": "graph", "nodes": nodes, "links": listed}))


def route(found: Topology, source: str, target: str) -> list[str]:
    """Give the names of all nodes on a path, and check that its links join up."""
    links = found.path(source, target)
    assert all(one.target == other.source for one, other in pairwise(links))
    return [source, *(link.target for link in links)]


class TestRoutes:
    def test_devices_of_one_host_meet_in_it(self) -> None:
        found = topology(builder="one_host", devices=3)
        assert route(found, "host0/device2", "host0/device0") == ["host0/device2", "host0", "host0/device0"]

    def test_in_a_star_every_route_has_four_links(self) -> None:
        found = star(devices_per_host=2)
        assert found.devices[1:3] == ("host0/device1", "host1/device0")
        assert route(found, "host0/device1", "host2/device0") == [
            "host0/device1",
            "host0",
            "switch0",
            "host2",
            "host2/device0",
        ]

    @pytest.mark.parametrize("hosts", [2, 3, 7, 8, 12])
    def test_in_a_ring_a_route_takes_the_shorter_way(self, hosts: int) -> None:
        found = ring(hosts)
        for i in range(hosts):
            for j in set(range(hosts)) - {i}:
                hops = min((i - j) % hosts, (j - i) % hosts)
                assert len(found.path(f"host{i}/device0", f"host{j}/device0")) == hops + 2

    def test_of_two_shortest_ways_the_first_in_natural_order_is_taken(self) -> None:
        found = ring(4)
        assert route(found, "host0", "host2") == ["host0", "host1", "host2"]
        assert route(found, "host1", "host3") == ["host1", "host0", "host3"]
        assert route(found, "host3", "host1") == ["host3", "host0", "host1"]
        ten_after_nine = graph("a-s10 a-s9 s10-b s9-b")
        assert route(ten_after_nine, "a/0", "b/0") == ["a/0", "a", "s9", "b", "b/0"]

    def test_the_first_differing_node_decides_not_the_last(self) -> None:
        found = graph("a-p1 p1-q2 q2-z a-p2 p2-q1 q1-z")
        assert route(found, "a", "z") == ["a", "p1", "q2", "z"]
        assert route(found, "z", "a") == ["z", "q1", "p2", "a"]

    def test_hops_decide_not_the_order_of_the_file_or_bandwidth(self) -> None:
        assert route(graph("a-b b-c a-c"), "a", "c") == ["a", "c"]
        assert route(graph("a-c b-c a-b"), "a", "c") == ["a", "c"]

    def test_routes_agree_with_exhaustive_search(self) -> None:
        found = graph("a-b1 a-b2 a-b10 b1-c2 b2-c1 b10-c1 c1-d c2-d d-e a-e1 e1-e2 e2-e3 e3-e c1-c2")
        for source in found.hosts:
            for target in found.hosts:
                shortest = [tuple(path) for path in nx.all_shortest_paths(found.graph, source, target)]
                order = {host: 100 * "abcde".index(host[0]) + int(host[1:] or 0) for host in found.hosts}
                assert tuple(route(found, source, target)) == min(
                    shortest, key=lambda path: [order[node] for node in path]
                )

    def test_a_path_to_itself_has_no_links(self) -> None:
        assert star().path("host0/device0", "host0/device0") == ()
        assert star().path("host0", "host0") == ()

    def test_a_device_between_two_hosts_may_pass_on(self) -> None:
        nodes: list[dict[str, Any]] = [{"kind": "host", "name": name} for name in "ab"]
        nodes += [{"kind": "device", "name": f"{name}0", "host": name, "device": "cpu"} for name in "ab"]
        links = [{"source": "a0", "target": "b0", **FAST}]
        found = build(SPEC.validate_python({"builder": "graph", "nodes": nodes, "links": links}))
        assert route(found, "a0", "b0") == ["a0", "b0"]
        assert route(found, "a", "b") == ["a", "a0", "b0", "b"]

    def test_an_unknown_node_is_named_with_the_nearest(self) -> None:
        for ask in (star().host_of, star().device_profile, lambda name: star().path(name, "host0")):
            with pytest.raises(InputError, match=r"host0/devise0.*\n.*did you mean 'host0/device0'"):
                ask("host0/devise0")
        with pytest.raises(InputError, match="no host 'host0/device0'"):
            star().cores_of("host0/device0")


class TestLinks:
    def test_full_duplex_has_the_bandwidth_in_both_directions(self) -> None:
        found = star(hosts=2)
        there, back = found.path("host0", "switch0"), found.path("switch0", "host0")
        assert there == (Link("host0", "switch0", 1e9, 3e-6),)
        assert back == (Link("switch0", "host0", 1e9, 3e-6),)
        ends = {(link.source, link.target) for link in found.links}
        assert ends == {(target, source) for source, target in ends}
        assert len(found.links) == len(found.graph.edges) == 8

    def test_a_one_way_link_leads_one_way(self) -> None:
        found = graph("a-b b-c c-a", duplex="one_way")
        assert route(found, "a", "c") == ["a", "b", "c"]
        assert route(found, "c", "a") == ["c", "a"]

    def test_two_hosts_in_a_ring_share_one_cable(self) -> None:
        assert len(ring(2).links) == 2 + 4
        assert len(ring(3).links) == 6 + 6

    def test_a_two_tier_fabric_is_oversubscribed_by_the_ratio_of_its_links(self) -> None:
        found = topology(builder="two_tier", racks=3, hosts_per_rack=20, link=SLOW, uplink=FAST)
        assert (len(found.hosts), len(found.switches)) == (60, 4)
        crossing = [link for link in found.path("host0", "host59") if "spine" in link[:2]]
        assert [link[:2] for link in crossing] == [("switch0", "spine"), ("spine", "switch2")]
        into_rack = [link for link in found.links if link.target == "switch0" and link.source != "spine"]
        demand = sum(link.bandwidth_bytes_per_s for link in into_rack)
        assert demand / crossing[0].bandwidth_bytes_per_s == pytest.approx(2.0)
        assert len(found.path("host0", "host19")) == 2

    def test_links_are_in_natural_order(self) -> None:
        sources = [link.source for link in ring(11).links if "/" not in link.source]
        assert sources == sorted(sources, key=lambda name: int(name.removeprefix("host")))

    def test_the_graph_cannot_be_changed(self) -> None:
        with pytest.raises(nx.NetworkXError, match="Frozen"):
            star().graph.add_node("more")


class TestNodes:
    def test_profiles_and_cores_are_kept(self) -> None:
        rates = {"peak": "10 TFLOP/s", "memory_bandwidth": "1 TB/s"}
        found = star(device=rates, cores=6)
        assert found.device_profile("host1/device0") == DeviceRates.model_validate(rates)
        assert found.cores_of("host2") == 6
        assert star().device_profile("host0/device0") == "cpu"
        assert star().cores_of("host0") is None
        assert found.host_of("host1/device0") == "host1"

    def test_the_devices_of_a_graph_are_ranked_as_listed(self) -> None:
        assert graph("z-b b-a").devices == ("z/0", "b/0", "a/0")

    def test_4096_devices_are_built(self) -> None:
        found = star(hosts=1024, devices_per_host=4)
        assert len(found.devices) == 4096
        assert len(found.path(found.devices[0], found.devices[-1])) == 4


NODES = """\
builder: graph
nodes:
  - {kind: host, name: a}
  - {kind: device, name: gpu, host: a, device: cuda}
  - {kind: nic, name: card, host: a}
  - {kind: switch, name: s}
  - {kind: storage, name: disk}
links:
  - {source: gpu, target: card, bandwidth: 100 Gb/s, latency: 1 us}
  - {source: card, target: s, bandwidth: 8 Gb/s, latency: 1 us, duplex: half}
  - {source: s, target: disk, bandwidth: 8 Gb/s, latency: 1 us, duplex: one_way}
"""


class TestListedNodes:
    @pytest.fixture
    def found(self, tmp_path: Path) -> Topology:
        path = tmp_path / "storage.yaml"
        path.write_text(NODES)
        return read_topology(str(path))

    def test_traffic_passes_a_nic_and_ends_in_storage(self, found: Topology) -> None:
        assert route(found, "gpu", "disk") == ["gpu", "card", "s", "disk"]
        assert found.graph.nodes["card"] == {"kind": "nic", "host": "a"}
        assert found.graph.nodes["disk"] == {"kind": "storage"}

    def test_both_directions_of_a_half_duplex_link_share_it(self, found: Topology) -> None:
        assert [link.shared for link in found.path("gpu", "disk")] == ["", "card--s", ""]
        assert [link.shared for link in found.path("s", "gpu")] == ["card--s", ""]

    def test_the_table_and_the_picture_show_them(self, found: Topology) -> None:
        rows = topology_rows(found)
        assert ("NICs", "1", "card", "") in rows
        assert ("storage", "1", "disk", "") in rows
        assert ("nic <-> switch", "1", "card <-> s", "8.00 Gb/s, 1.00 us, half duplex") in rows
        drawn = {trace.name: len(trace.x) for trace in topology_figure(found).data if trace.name}
        assert drawn == {"hosts": 1, "devices": 1, "NICs": 1, "switches": 1, "storage": 1}


@pytest.mark.parametrize(
    ("old", "new", "line", "problem", "remedy"),
    [
        ("card, host: a", "card, host: b", 5, "there is no host 'b'", "known: a"),
        ("card, host: a", "card", 5, "host: missing", "add the key 'host'"),
        ("name: disk}", "name: disk, host: a}", 7, "host: unknown key", "known: name, kind"),
        ("duplex: half", "duplex: halve", 10, "'halve' is not known", "did you mean 'half'?"),
        ("source: s, target: disk", "source: card, target: s", 11, "linked already", "remove one of the links"),
    ],
)
def test_a_bad_node_or_link_is_refused_with_line_and_remedy(
    old: str, new: str, line: int, problem: str, remedy: str, tmp_path: Path
) -> None:
    assert NODES.count(old) == 1
    text = NODES.replace(old, new)
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_topology(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda g: g.remove_nodes_from(["host0/device0", "host1/device0"]), "no device"),
        (lambda g: g.remove_node("host0"), "'host0/device0' names 'host0', which is no host"),
        (lambda g: g.remove_edge("host0", "host0/device0"), "'host0/device0'.*'host0'"),
        (lambda g: g.remove_edge("host0", "host1"), "from device 'host0/device0' to device 'host1/device0'"),
        (lambda g: g.remove_edge("host1", "host0"), "from device 'host1/device0' to device 'host0/device0'"),
        (
            lambda g: g["host0"]["host1"].update(bandwidth_bytes_per_s=0.0),
            "from 'host0' to 'host1'.*bandwidth 0.0",
        ),
        (lambda g: g["host0"]["host1"].update(bandwidth_bytes_per_s=math.nan), "bandwidth nan"),
        (lambda g: g["host0"]["host1"].update(bandwidth_bytes_per_s=math.inf), "bandwidth inf"),
        (lambda g: g["host0"]["host1"].update(latency_s=-1.0), "latency -1.0"),
    ],
)
def test_a_graph_that_does_not_hang_together_is_refused(change: Any, problem: str) -> None:
    broken: nx.DiGraph[str] = nx.DiGraph(ring(2).graph)
    change(broken)
    with pytest.raises(TopologyError, match=problem) as caught:
        Topology(broken)
    assert caught.value.remedy


def test_a_specification_survives_being_written_and_read() -> None:
    rates = {"peak": "10 TFLOP/s", "memory_bandwidth": "1 TB/s", "overhead": "5 us"}
    spec = SPEC.validate_python({"builder": "star", "hosts": 2, "device": rates, "link": SLOW, "cores": 4})
    assert SPEC.validate_python(json.loads(SPEC.dump_json(spec))) == spec
    assert SPEC.validate_python(SPEC.dump_python(spec, mode="json", exclude_none=True)) == spec


def test_the_schema_documents_every_key() -> None:
    for name, model in SPEC.json_schema()["$defs"].items():
        for key, described in model["properties"].items():
            assert "description" in described, (name, key)
