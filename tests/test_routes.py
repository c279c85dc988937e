"""Routes are shortest, and divide flows as their policy says; the other ways are found when links fail."""

from __future__ import annotations

import random
from typing import Any

import networkx as nx
import numpy as np
import pytest
from tests.small_plans import BYTES_PER_S, FREE, HOP_S, LINK, RATES, bench, make, predict, star

from twinstep.topologies import Policy, Topology
from twinstep.topologies.routes import Paths

FABRICS: dict[str, dict[str, Any]] = {
    "star": star(5, 2),
    "ring": {"builder": "ring", "hosts": 7, "link": LINK},
    "two tiers": {"builder": "two_tier", "racks": 3, "hosts_per_rack": 2, "link": LINK, "uplink": LINK},
    "fat tree": {"builder": "fat_tree", "ports": 4, "link": LINK},
    "torus": {"builder": "torus", "dimensions": [3, 4], "link": LINK},
    "rail": {"builder": "rail", "hosts": 3, "devices_per_host": 4, "spines": 2, "link": LINK, "uplink": LINK},
    "dragonfly": {
        "builder": "dragonfly",
        "groups": 3,
        "routers_per_group": 2,
        "hosts_per_router": 2,
        "link": LINK,
        "local_link": LINK,
        "global_link": LINK,
    },
}


def fabric(name: str) -> Topology:
    return make(FABRICS[name], partition={"data": 2})[1]


def every_pair(topology: Topology, policy: Policy) -> tuple[Paths, list[tuple[str, str]]]:
    pairs = [(one, other) for one in topology.devices for other in topology.devices]
    ids = np.array([[topology.node_ids[node] for node in pair] for pair in pairs])
    return topology.routes(policy).paths(ids[:, 0], ids[:, 1]), pairs


@pytest.mark.parametrize("policy", ["shortest", "ecmp", "spray"])
@pytest.mark.parametrize("name", FABRICS)
def test_routes_are_shortest_and_carry_the_whole_flow(name: str, policy: Policy) -> None:
    topology = fabric(name)
    paths, pairs = every_pair(topology, policy)
    shortest = dict(nx.all_pairs_shortest_path_length(topology.graph))
    hops = np.bincount(paths.pair, weights=paths.share, minlength=len(pairs))
    assert hops == pytest.approx([shortest[one][other] for one, other in pairs], rel=1e-5)
    assert not len(paths.unreached)
    flows: dict[tuple[int, str], float] = {}
    for pair, index, share in zip(*paths[:3], strict=True):
        link = topology.links[index]
        flows[pair, link.source] = flows.get((pair, link.source), 0.0) - share
        flows[pair, link.target] = flows.get((pair, link.target), 0.0) + share
    for (pair, node), surplus in flows.items():
        source, target = pairs[pair]
        assert surplus == pytest.approx((node == target) - (node == source), abs=1e-5)


@pytest.mark.parametrize("name", FABRICS)
def test_latency_is_that_of_the_links(name: str) -> None:
    topology = fabric(name)
    paths, pairs = every_pair(topology, "shortest")
    for (one, other), latency_s in zip(pairs, paths.latency_s, strict=True):
        assert latency_s == pytest.approx(sum(link.latency_s for link in topology.path(one, other)), rel=1e-12)


def test_ecmp_spreads_flows_over_equal_paths() -> None:
    topology = fabric("fat tree")
    paths, pairs = every_pair(topology, "ecmp")
    crossing = [topology.links[index].target for index in paths.link if topology.links[index].target.startswith("core")]
    used = {core: crossing.count(core) for core in set(crossing)}
    assert len(used) == 4
    assert max(used.values()) < 2 * min(used.values())
    assert len(pairs) == 256


def test_spray_divides_between_all_equal_paths() -> None:
    """From pod to pod of a fat tree of 4 ports there are four ways, a quarter each."""
    topology = fabric("fat tree")
    ids = [np.array([topology.node_ids[f"host{host}"]]) for host in (0, 15)]
    paths = topology.routes("spray").paths(*ids)
    to_core = [share for index, share in zip(paths.link, paths.share, strict=True)
               if topology.links[index].target.startswith("core")]  # fmt: skip
    assert to_core == [0.25] * 4


@pytest.mark.parametrize("policy", ["shortest", "ecmp", "spray"])
def test_devices_of_a_host_meet_over_the_widest_links(policy: Policy) -> None:
    """On rails, another device is two hops away over crossbar and host; the crossbar is wider, and first by name."""
    wide, narrow = LINK | {"bandwidth": "900 Gb/s"}, LINK | {"bandwidth": "100 Gb/s"}
    rail = FABRICS["rail"] | {"internal_link": wide, "pcie_link": narrow}
    topology = make(rail, partition={"data": 2})[1]
    ids = [np.array([topology.node_ids[f"host0/device{device}"]]) for device in (0, 2)]
    paths = topology.routes(policy).paths(*ids)
    assert {topology.links[index].bandwidth_bytes_per_s for index in paths.link} == {900e9 / 8}


def test_reads_from_storage_share_the_links_of_the_hosts_that_read() -> None:
    """A host reads a checkpoint while it broadcasts: both take their half of the link into the other host."""
    nodes: list[dict[str, Any]] = [{"kind": "switch", "name": "s"}, {"kind": "storage", "name": "disks"}]
    links = [{"source": "disks", "target": "s", **FREE}]
    for host in "ab":
        nodes.append({"kind": "host", "name": host})
        nodes.append({"kind": "device", "name": f"{host}0", "host": host, "device": RATES, "link": FREE})
        links.append({"source": host, "target": "s", **LINK})
    reads = {"kind": "flow", "source": "disks", "target": "b", "size": "1 GB"}
    plan, topology = make(
        {"builder": "graph", "nodes": nodes, "links": links},
        workload={"kind": "collective", "collective": "broadcast", "size": "100 MB"},
        partition={"data": 2},
        communication={"library": "ideal", "algorithm": "direct"},
        run={"steps": 1, "warmup": 0, "compute": "emulated", "background": [reads]},
    )
    assert predict(plan, topology).timeline.step_time_s() == pytest.approx(HOP_S + 2 * 1e8 / BYTES_PER_S, rel=1e-3)


@pytest.mark.parametrize("routing", ["shortest", "spray"])
def test_a_permutation_on_a_fat_tree_needs_all_its_paths(routing: str) -> None:
    """Every host sends to the opposite one: sprayed, each has its full rate; on one path each, they share."""
    fat = {"builder": "fat_tree", "ports": 4, "link": LINK, "internal_link": FREE}
    flows = [
        {"kind": "flow", "source": f"host{h}/device0", "target": f"host{(h + 8) % 16}/device0", "size": "100 MB"}
        for h in range(1, 16)
    ]
    plan, topology = make(
        fat,
        partition={"data": 1},
        communication={"routing": routing},
        run={"steps": 1, "warmup": 0, "compute": "emulated", "background": flows},
        workload={"kind": "mlp", "hidden": [65536, 65536], "batch": 240},
    )
    links = predict(plan, topology).links()
    fullest = max(link.utilisation for link in links)
    waiting_s = sum(link.queueing_s for link in links)
    assert fullest == pytest.approx(1, rel=0.2)
    assert (waiting_s < 1e-6) == (routing == "spray")


def test_others_may_repeat_as_often_as_they_like_while_ranks_compute() -> None:
    """30,000 messages of others during one step are no reason to think that a rank hangs."""
    flow = {"kind": "flow", "source": "host2/device0", "target": "host3/device0", "size": "1 KiB", "every": "5 us"}
    plan, topology = make(
        star(4),
        workload={"kind": "mlp", "hidden": [4096, 4096], "batch": 400},
        partition={"data": 2},
        run={"steps": 1, "warmup": 0, "compute": "emulated", "background": [flow]},
    )
    assert predict(plan, topology).timeline.step_time_s() > 0.15


def test_tensor_and_data_parallel_traffic_share_a_link() -> None:
    """The sums of tensor parallelism across hosts slow down while another job's all-reduce is under way."""
    gpt = {"kind": "gpt", "layers": 2, "heads": 2, "width": 256, "context": 128, "batch": 4}
    other = {
        "kind": "collective",
        "collective": "all_reduce",
        "devices": [f"host{host}/device1" for host in range(4)],
        "size": "10 MB",
    }
    runs = [{"steps": 2, "warmup": 0, "compute": "emulated"} | extra for extra in ({}, {"background": [other]})]
    quiet, busy = (
        predict(*make(star(4, 2), workload=gpt, partition={"data": 4, "tensor": 2}, run=run)) for run in runs
    )
    assert busy.timeline.step_time_s() > 1.2 * quiet.timeline.step_time_s()
    assert sum(link.queueing_s for link in busy.links()) > sum(link.queueing_s for link in quiet.links())


def test_two_jobs_on_one_link_take_twice_as_long() -> None:
    """The plan's ring and another job's cross the same uplinks; both are as long, and end together."""
    nodes: list[dict[str, Any]] = [{"kind": "switch", "name": name} for name in ("left", "right")]
    links = [{"source": "left", "target": "right", **LINK}]
    for index, host in enumerate("abcd"):
        nodes.append({"kind": "host", "name": host})
        nodes.append({"kind": "device", "name": f"{host}0", "host": host, "device": RATES, "link": FREE})
        links.append({"source": host, "target": ("left", "right")[index % 2], **FREE})
    other = {"kind": "collective", "collective": "all_reduce", "devices": ["c0", "d0"], "size": "10 MB", "every": "1 h"}
    times_s = []
    for background in ([], [other]):
        plan, topology = make(
            {"builder": "graph", "nodes": nodes, "links": links},
            workload={"kind": "collective", "collective": "all_reduce", "size": "10 MB"},
            partition={"data": 2},
            communication={"library": "ideal", "algorithm": "ring"},
            run={"steps": 1, "warmup": 0, "compute": "emulated", "background": background},
        )
        times_s.append(predict(plan, topology).timeline.step_time_s())
    assert times_s[0] == pytest.approx(2 * (5e-6 + 5e6 / BYTES_PER_S), rel=1e-6)
    assert times_s[1] == pytest.approx(2 * (5e-6 + 2 * 5e6 / BYTES_PER_S), rel=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_on_random_graphs_bytes_are_conserved_and_no_link_exceeds_its_rate(seed: int) -> None:
    generator = random.Random(seed)
    hosts = generator.randint(2, 7)
    nodes: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for host in range(hosts):
        nodes.append({"kind": "host", "name": f"h{host}"})
        nodes.append({"kind": "device", "name": f"d{host}", "host": f"h{host}", "device": RATES, "link": FREE})
        for other in [generator.randrange(host)] if host else []:
            links.append({"source": f"h{host}", "target": f"h{other}", **random_link(generator)})
    for _ in range(generator.randint(0, hosts)):
        one, other = generator.sample(range(hosts), 2)
        if not any({one, other} == {int(link["source"][1:]), int(link["target"][1:])} for link in links):
            links.append({"source": f"h{one}", "target": f"h{other}", **random_link(generator)})
    kind = generator.choice(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"])
    plan, topology = bench({"builder": "graph", "nodes": nodes, "links": links}, hosts, kind, 10**6, times=2)
    simulation = predict(plan, topology)
    into, out = dict.fromkeys(topology.nodes, 0.0), dict.fromkeys(topology.nodes, 0.0)
    for link in simulation.links():
        assert link.utilisation <= 1 + 1e-9
        out[link.source] += link.size_bytes
        into[link.target] += link.size_bytes
    if "in_network" not in simulation.algorithms.values():
        for host in topology.hosts:
            assert into[host] == pytest.approx(out[host])
        assert sum(into[device] for device in topology.devices) == pytest.approx(sum(out[d] for d in topology.devices))
    faster = [link | {"bandwidth": f"{2 * float(link['bandwidth'].split()[0])} Gb/s"} for link in links]
    quick = predict(*bench({"builder": "graph", "nodes": nodes, "links": faster}, hosts, kind, 10**6, times=2))
    assert quick.timeline.step_time_s() <= simulation.timeline.step_time_s() * (1 + 1e-9)


def random_link(generator: random.Random) -> dict[str, str]:
    return {"bandwidth": f"{generator.choice([1, 10, 40])} Gb/s", "latency": f"{generator.choice([1, 5])} us"}
