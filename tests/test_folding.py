"""Folded and unfolded simulations give the same bits; folding stops exactly at what differs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tests.repeated import seeds
from tests.small_plans import LINK, RATES, make, predict, star

from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import lower, own_names
from twinstep.sim import simulate
from twinstep.sim.folding import Edges, refine
from twinstep.timeline import Timeline
from twinstep.topologies import Topology

FAST = {"bandwidth": "90 Gb/s", "latency": "1 us"}


def unfolded(timeline: Timeline, plan: Plan) -> Timeline:
    return timeline.unfolded(own_names(lower(plan).groups))


def simulated(timeline: Timeline) -> list[int]:
    return [twins.representative for twins in timeline.twins]


def gpt(**partition: int) -> dict[str, Any]:
    batch = 4 * partition.get("data", 1) * partition.get("microbatches", 1)
    return {
        "workload": {"kind": "gpt", "layers": 4, "heads": 4, "width": 64, "context": 8, "batch": batch},
        "partition": partition,
        "sync": {"bucket": "200 KiB"},
    }


def random_topology(generator: random.Random) -> tuple[dict[str, Any], int]:
    """Describe one of several fabrics; give it with its number of devices."""
    devices = generator.choice([1, 2, 4])
    common = {"link": LINK, "internal_link": FAST, "devices_per_host": devices}
    choices: list[tuple[dict[str, Any], int]] = [
        ({"builder": "star", "hosts": 8} | common, 8 * devices),
        ({"builder": "ring", "hosts": 6} | common, 6 * devices),
        ({"builder": "two_tier", "racks": 2, "hosts_per_rack": 4, "uplink": LINK} | common, 8 * devices),
        ({"builder": "fat_tree", "ports": 4} | common, 16 * devices),
        ({"builder": "torus", "dimensions": [2, 4]} | common, 8 * devices),
        ({"builder": "star", "hosts": 8} | common | {"link": LINK | {"duplex": "half"}}, 8 * devices),
        (
            {"builder": "rail", "hosts": 4, "devices_per_host": 4, "spines": 2, "link": LINK, "uplink": LINK},
            16,
        ),
    ]
    return generator.choice(choices)


def random_plan(seed: int) -> tuple[Plan, Topology]:
    generator = random.Random(seed)
    topology, devices = random_topology(generator)
    mesh = generator.choice([(2, 2, 2), (1, 1, devices), (2, 1, devices // 2), (4, 2, 1), (1, 4, 2), (2, 2, 1)])
    tensor, pipeline, data = mesh
    ranks = tensor * pipeline * data
    if ranks > devices:
        tensor, pipeline, data, ranks = 1, 1, devices, devices
    run: dict[str, Any] = {"steps": 2, "warmup": 1, "compute": "emulated"}
    if generator.random() < 0.4:
        run["stragglers"] = [{"rank": generator.randrange(ranks), "slowdown": generator.choice([1.5, 3.0])}]
    if generator.random() < 0.3:
        kind = {"kind": "flow", "source": "host0", "target": "host1"}
        if generator.random() < 0.5:
            kind = {"kind": "collective", "collective": "all_reduce", "devices": ["host0/device0", "host1/device0"]}
        run["background"] = [kind | {"size": "1 MiB", "every": "0.3 ms", "begin": "10 us"}]
    if generator.random() < 0.3:
        ends = {"source": "host0", "target": "host0/device0"}
        run["link_changes"] = [
            ends | {"at": "50 us", "bandwidth": "1 Gb/s"},
            ends | {"at": "1 ms", "bandwidth": "90 Gb/s"},
        ]
        if topology["builder"] == "ring":
            run["link_changes"].append({"source": "host2", "target": "host1", "at": "100 us"})
    communication = {
        "library": generator.choice(["gloo", "nccl", "ideal"]),
        "algorithm": generator.choice(["auto", "best", "ring", "hierarchical", "halving_doubling", "binomial"]),
        "routing": generator.choice(["shortest", "ecmp", "spray"]),
    }
    partition = {"tensor": tensor, "pipeline": pipeline, "data": data, "microbatches": generator.choice([1, 2, 3])}
    return make(topology, **gpt(**partition), communication=communication, run=run)


@pytest.mark.parametrize("seed", seeds(120, quick=20))
def test_folded_and_unfolded_timelines_are_the_same_to_the_bit(seed: int) -> None:
    plan, topology = random_plan(seed)
    folded, plain = predict(plan, topology), predict(plan, topology, fold=False)
    assert unfolded(folded.timeline, plan).spans == plain.timeline.spans
    assert folded.effects <= plain.effects
    assert [link[:3] for link in folded.links()] == [
        (link.source, link.target, pytest.approx(link.size_bytes, rel=1e-9)) for link in plain.links()
    ]
    for one, other in zip(folded.links(), plain.links(), strict=True):
        assert one.queueing_s == pytest.approx(other.queueing_s, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_on_the_cores_of_hosts_fold_to_the_same_bits(ranks: int, profile: Profile) -> None:
    """Computations and gloo's threads share two cores among twins, measured kernels and tables included."""
    plan, topology = make(
        {"builder": "one_host", "devices": ranks, "device": "cpu"},
        partition={"data": ranks},
        sync={"bucket": "64 KiB"},
        run={"steps": 3, "warmup": 1, "compute": "real"},
        workload={"kind": "mlp", "hidden": [256, 128], "batch": 30 * ranks},
    )
    folded, plain = (simulate(plan, lower(plan), topology, profile, fold=fold).timeline for fold in (True, False))
    assert simulated(folded) == [0]
    assert unfolded(folded, plan).spans == plain.spans


def test_a_uniform_plan_needs_one_rank_a_stage() -> None:
    plan, topology = make(star(8, 4), **gpt(tensor=4, pipeline=2, data=4, microbatches=4))
    assert simulated(predict(plan, topology).timeline) == [0, 16]


def test_a_straggler_in_data_parallelism_unfolds_itself_alone() -> None:
    run = {"steps": 2, "warmup": 1, "compute": "emulated", "stragglers": [{"rank": 5, "slowdown": 2.0}]}
    plan, topology = make(star(8), partition={"data": 8}, run=run)
    assert simulated(predict(plan, topology).timeline) == [0, 5]


def test_a_straggler_unfolds_its_groups_and_nothing_beyond() -> None:
    """Tensor groups of 2, data groups of 4 on 2 stages: rank 3 is slow.

    Rank 2 shares its tensor group. The other ranks of stage 0 wait for rank 2 or 3 in their data groups: those in
    the same place of their tensor groups are alike. So are the ranks of stage 1, but for 10 and 11, the next stage
    of the slow pipeline.
    """
    run = {"steps": 2, "warmup": 1, "compute": "emulated", "stragglers": [{"rank": 3, "slowdown": 2.0}]}
    plan, topology = make(star(16), **gpt(tensor=2, pipeline=2, data=4, microbatches=2), run=run)
    found = {twins.ranks for twins in predict(plan, topology).timeline.twins}
    assert found == {(0, 4, 6), (1, 5, 7), (2,), (3,), (8, 12, 14), (9, 13, 15), (10,), (11,)}


def test_uneven_shards_unfold_by_their_size() -> None:
    workload = {"kind": "linear_regression", "polynomial_degree": 2}
    plan, topology = make(star(5), workload=workload, partition={"data": 5})
    assert simulated(predict(plan, topology).timeline) == [0, 2]  # 442 samples: 89 on two ranks, 88 on three


def test_a_slow_link_unfolds_what_crosses_it() -> None:
    nodes: list[dict[str, Any]] = [{"kind": "switch", "name": "s"}]
    links = []
    for host in range(4):
        nodes.append({"kind": "host", "name": f"h{host}"})
        nodes.append({"kind": "device", "name": f"d{host}", "host": f"h{host}", "device": RATES, "link": FAST})
        links.append({"source": f"h{host}", "target": "s", **(LINK if host else FAST)})
    pairs = gpt(tensor=2, pipeline=1, data=2)
    plan, topology = make({"builder": "graph", "nodes": nodes, "links": links}, **pairs)
    assert len(simulated(predict(plan, topology).timeline)) == 4
    even, fabric = make(star(4), **pairs)
    assert len(simulated(predict(even, fabric).timeline)) == 1


def test_refinement_tells_a_path_of_six_from_the_middle() -> None:
    """On a path, ends, their neighbours and the middle differ: colours go by the distance to an end."""
    path = Edges(np.arange(5), np.arange(1, 6), np.zeros(5, dtype=np.uint64))
    back = Edges(path.other, path.one, path.label)
    colours = refine(np.zeros(6, dtype=np.int64), [path, back]).tolist()
    assert [colours[i] == colours[5 - i] for i in range(3)] == [True] * 3
    assert len(set(colours)) == 3
