"""Regular fabrics and the kinds of nodes and links: counts by formula, distances, and bad input refused by line."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from twinstep.errors import InputError
from twinstep.report.topology_layout import positions_of
from twinstep.report.topology_view import topology_figure
from twinstep.topologies import Topology, TopologySpec, build, read_topology
from twinstep.topologies.graph import natural_order
from twinstep.topologies.specification import BuilderSpec

SPEC: TypeAdapter[Any] = TypeAdapter(TopologySpec)
LINK = {"bandwidth": "8 Gb/s", "latency": "1 us"}
FAST = {"bandwidth": "80 Gb/s", "latency": "1 us"}
DRAGONFLY = {"builder": "dragonfly", "local_link": LINK, "global_link": FAST}
EACH = [
    {"builder": "one_host", "devices": 12},
    {"builder": "star", "hosts": 12},
    {"builder": "ring", "hosts": 12},
    {"builder": "fully_connected", "hosts": 12},
    {"builder": "torus", "dimensions": [3, 4]},
    {"builder": "two_tier", "racks": 3, "hosts_per_rack": 4, "uplink": LINK},
    {"builder": "fat_tree", "ports": 4, "hosts": 12},
    {"builder": "rail", "hosts": 12, "devices_per_host": 2, "uplink": LINK},
    {**DRAGONFLY, "groups": 3, "routers_per_group": 2, "hosts_per_router": 2},
]


def topology(**spec: Any) -> Topology:
    return build(SPEC.validate_python({"device": "cpu", "link": LINK, **spec}))


def dragonfly(groups: int, routers: int, hosts: int) -> Topology:
    return topology(**DRAGONFLY, groups=groups, routers_per_group=routers, hosts_per_router=hosts)


def cables(found: Topology) -> int:
    """Count the links, both directions as one, but for those of devices to their hosts."""
    assert all(found.graph.has_edge(target, source) for source, target in found.graph.edges)
    return len(found.graph.edges) // 2 - len(found.devices)


def degree(found: Topology, node: str) -> int:
    return len(found.graph.succ[node])


def hops(found: Topology, source: int, target: int) -> int:
    return len(found.path(f"host{source}/device0", f"host{target}/device0"))


def nodes(found: Topology, source: str, target: str) -> list[str]:
    return [link.target for link in found.path(source, target)]


@pytest.mark.parametrize("spec", EACH, ids=lambda spec: str(spec["builder"]))
class TestEachBuilder:
    def test_ranks_are_in_natural_order(self, spec: dict[str, Any]) -> None:
        found = topology(**spec)
        assert len(found.devices) == 12 * spec.get("devices_per_host", 1)
        assert list(found.devices) == sorted(found.devices, key=natural_order)
        assert list(found.hosts) == sorted(found.hosts, key=natural_order)

    def test_a_picture_has_a_place_of_its_own_for_each_node(self, spec: dict[str, Any]) -> None:
        positions = positions_of(found := topology(**spec), with_devices=True)
        assert positions.keys() == set(found.graph)
        assert len(set(positions.values())) == len(positions)

    def test_its_half_duplex_links_share_a_name(self, spec: dict[str, Any]) -> None:
        found = topology(**spec | {"link": LINK | {"duplex": "half"}})
        shared = {edge: found.graph.edges[edge].get("shared", "") for edge in found.graph.edges}
        names = Counter(name for name in shared.values() if name)
        assert names
        assert set(names.values()) == {2}
        assert all(name in ("", f"{a}--{b}", f"{b}--{a}") for (a, b), name in shared.items())
        assert all(name == shared[b, a] for (a, b), name in shared.items())


def test_every_builder_of_the_specification_is_covered() -> None:
    known = TypeAdapter(BuilderSpec).json_schema()["discriminator"]["mapping"]
    assert set(known) == {spec["builder"] for spec in EACH} | {"graph"}


@pytest.mark.parametrize("hosts", [2, 3, 7])
def test_fully_connected_hosts_are_linked_pairwise(hosts: int) -> None:
    found = topology(builder="fully_connected", hosts=hosts)
    assert cables(found) == math.comb(hosts, 2)
    assert found.switches == ()
    assert hops(found, 0, hosts - 1) == 3


class TestFatTree:
    @pytest.mark.parametrize("k", [2, 4, 6, 8])
    def test_it_has_the_parts_of_the_paper(self, k: int) -> None:
        found = topology(builder="fat_tree", ports=k)
        assert len(found.hosts) == k**3 // 4
        kinds = Counter(switch.rpartition("/")[2].rstrip("0123456789") for switch in found.switches)
        assert kinds == {"core": (k // 2) ** 2, "edge": k * k // 2, "aggregation": k * k // 2}
        assert cables(found) == 3 * k**3 // 4
        assert {degree(found, switch) for switch in found.switches} == {k}

    def test_distance_grows_with_the_tiers_that_a_route_climbs(self) -> None:
        found = read_topology("fat-tree-16")
        assert [hops(found, 0, target) for target in (1, 2, 3, 4, 15)] == [4, 6, 6, 8, 8]
        assert nodes(found, "host0", "host15")[2].startswith("core")

    def test_each_core_switch_reaches_each_pod_once(self) -> None:
        found = topology(builder="fat_tree", ports=6)
        for core in range(9):
            pods = sorted(node.split("/")[0] for node in found.graph.succ[f"core{core}"])
            assert pods == [f"pod{pod}" for pod in range(6)]

    def test_only_the_first_hosts_are_there_where_so_many_are_asked_for(self) -> None:
        found = topology(builder="fat_tree", ports=4, hosts=5)
        assert found.hosts == tuple(f"host{index}" for index in range(5))
        assert len(found.switches) == 20
        assert hops(found, 0, 4) == 8


class TestRail:
    def test_each_device_has_a_nic_on_the_switch_of_its_rail(self) -> None:
        hosts, devices, spines = 3, 4, 2
        found = topology(builder="rail", hosts=hosts, devices_per_host=devices, uplink=LINK, spines=spines)
        nics = [node for node, kind in found.graph.nodes(data="kind") if kind == "nic"]
        assert len(nics) == hosts * devices
        assert {found.graph.nodes[nic]["host"] for nic in nics} == set(found.hosts)
        assert len(found.switches) == devices + spines + hosts
        assert cables(found) == 3 * hosts * devices + devices * spines
        for host in range(hosts):
            for rail in range(devices):
                ends = {f"host{host}/device{rail}", f"rail{rail}"}
                assert set(found.graph.succ[f"host{host}/nic{rail}"]) == ends

    def test_devices_of_a_host_meet_on_its_switch(self) -> None:
        found = read_topology("rail-4x8")
        assert nodes(found, "host1/device0", "host1/device7") == ["crossbar1", "host1/device7"]
        assert found.path("host1/device0", "host1/device7")[0].bandwidth_bytes_per_s == 450e9

    def test_equal_devices_meet_on_their_rail_and_others_are_two_links_farther(self) -> None:
        found = read_topology("rail-4x8")
        rail = ["host0/nic3", "rail3", "host2/nic3", "host2/device3"]
        assert nodes(found, "host0/device3", "host2/device3") == rail
        assert len(found.path("host0/device3", "host2/device4")) == 6


class TestTorus:
    @pytest.mark.parametrize("dimensions", [(5,), (2, 4), (3, 3), (4, 4, 4), (2, 3, 5), (2, 2, 2)])
    def test_each_host_has_a_link_to_each_neighbour(self, dimensions: tuple[int, ...]) -> None:
        found = topology(builder="torus", dimensions=list(dimensions))
        hosts = math.prod(dimensions)
        assert len(found.hosts) == hosts
        assert cables(found) == sum(hosts // 2 if size == 2 else hosts for size in dimensions)
        neighbours = sum(1 if size == 2 else 2 for size in dimensions)
        assert {degree(found, host) for host in found.hosts} == {neighbours + 1}

    @pytest.mark.parametrize("dimensions", [(2, 4), (4, 3, 2), (5, 4)])
    def test_distance_is_the_sum_of_the_shorter_ways_round(self, dimensions: tuple[int, ...]) -> None:
        found = topology(builder="torus", dimensions=list(dimensions))
        for target in range(1, len(found.hosts)):
            rest, expected = target, 2
            for size in reversed(dimensions):
                rest, coordinate = divmod(rest, size)
                expected += min(coordinate, size - coordinate)
            assert hops(found, 0, target) == expected

    def test_one_dimension_is_a_ring(self) -> None:
        assert topology(builder="torus", dimensions=[6]).links == topology(builder="ring", hosts=6).links


class TestDragonfly:
    @pytest.mark.parametrize(("groups", "routers", "hosts"), [(1, 3, 2), (4, 2, 2), (5, 2, 1), (9, 4, 2), (4, 5, 1)])
    def test_one_link_joins_each_pair_of_groups(self, groups: int, routers: int, hosts: int) -> None:
        found = dragonfly(groups, routers, hosts)
        assert len(found.switches) == groups * routers
        assert len(found.hosts) == groups * routers * hosts
        ends = [[end.split("/")[0] for end in link[:2]] for link in found.links if link.bandwidth_bytes_per_s == 1e10]
        assert Counter(map(tuple, ends)) == {
            (f"group{a}", f"group{b}"): 1 for a in range(groups) for b in range(groups) if a != b
        }
        assert cables(found) == groups * math.comb(routers, 2) + math.comb(groups, 2) + len(found.hosts)

    @pytest.mark.parametrize(("groups", "routers"), [(4, 2), (9, 4), (4, 5)])
    def test_global_links_are_spread_evenly(self, groups: int, routers: int) -> None:
        found = dragonfly(groups, routers, 1)
        for group in range(groups):
            ports = [degree(found, f"group{group}/router{index}") - routers for index in range(routers)]
            assert sum(ports) == groups - 1
            assert max(ports) - min(ports) <= 1

    def test_no_route_takes_more_than_two_local_links_and_a_global_one(self) -> None:
        found = read_topology("dragonfly-4x2x2")
        assert [hops(found, 0, target) for target in (1, 2)] == [4, 5]
        others = {hops(found, source, target) for source in range(4) for target in range(4, 16)}
        assert others == {5, 6, 7}


def test_without_devices_the_links_of_nics_are_drawn_from_their_host() -> None:
    found = topology(builder="rail", hosts=16, devices_per_host=8, uplink=LINK)
    figure = topology_figure(found)
    assert [trace.name for trace in figure.data if trace.name] == ["hosts", "switches"]
    (hover,) = (trace for trace in figure.data if trace.mode == "markers" and trace.name is None)
    assert any(text.startswith("host15/nic7 &lt;-&gt; rail7") for text in hover.hovertext)
    assert not any("device7 &lt;-&gt; host" in text for text in hover.hovertext)


END = "device: cpu\nlink: {bandwidth: 1 Gb/s, latency: 1 us}\n"
LINK_TEXT = "{bandwidth: 1 Gb/s, latency: 1 us}"


@pytest.mark.parametrize(
    ("text", "line", "problem", "remedy"),
    [
        ("builder: fat_tree\nports: 5\n", 2, "ports: 5: half of the ports lead up", "give 4 or 6"),
        ("builder: fat_tree\nports: 0\n", 2, "ports: 0 must be greater", "correct"),
        ("builder: fat_tree\nports: 82\n", 2, "ports: 82 must be less", "correct"),
        (
            "builder: fat_tree\nports: 4\nhosts: 17\n",
            3,
            "hosts: 17: switches of 4 ports make room for 16",
            "raise ports",
        ),
        ("builder: fat_tree\nhosts: 0\nports: 4\n", 2, "hosts: 0 must be greater", "correct"),
        (
            "builder: fat_tree\nports: 80\ndevices_per_host: 2\n",
            1,
            "128000 hosts x 2 devices_per_host makes 256000 devices",
            "at most 131072",
        ),
        ("builder: torus\ndimensions: [4, 1]\n", 2, "dimensions[1]: 1 must be greater than or equal to 2", "correct"),
        ("builder: torus\ndimensions: []\n", 2, "at least 1", "correct"),
        ("builder: torus\ndimensions: 8\n", 2, "8 must be a list", "write"),
        ("builder: torus\ndimensions: [2, 2, 2, 2, 2, 2, 2]\n", 2, "at most 6", "correct"),
        ("builder: torus\ndimensions: [512, 512]\n", 1, "262144 hosts x 1 devices_per_host makes 262144", "at most"),
        ("builder: fully_connected\nhosts: 1\n", 2, "hosts: 1 must be greater", "correct"),
        (
            "builder: fully_connected\nhosts: 2000\n",
            1,
            "2000 hosts x 1 devices_per_host makes 2001000 links",
            "at most 1048576",
        ),
        ("builder: rail\nhosts: 4\n", 1, "uplink: missing", "add the key"),
        (f"builder: rail\nhosts: 4\nspines: 0\nuplink: {LINK_TEXT}\n", 3, "spines: 0 must be greater", "correct"),
        (
            "builder: dragonfly\ngroups: 2\nrouters_per_group: 2000\nhosts_per_router: 1\n"
            f"local_link: {LINK_TEXT}\nglobal_link: {LINK_TEXT}\n",
            1,
            "2 groups x 2000 routers_per_group x 1 hosts_per_router x 1 devices_per_host makes",
            "at most",
        ),
        ("builder: star\nhosts: 131073\n", 2, "hosts: 131073 must be less", "correct"),
        ("builder: dragon_fly\nhosts: 4\n", 1, "'dragon_fly' is not known", "did you mean 'dragonfly'?"),
    ],
)
def test_a_bad_fabric_is_refused_with_line_and_remedy(
    text: str, line: int, problem: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text + END)
    with pytest.raises(InputError) as caught:
        read_topology(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
