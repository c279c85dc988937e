"""Gossip between neighbours in the topology: who they are, what their weights keep, and what a round costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command_line import Ended, assert_refused
from tests.small_plans import BYTES_PER_S, FREE, LINK, RATES, make, predict

from twinstep.learning import Share, local_learner
from twinstep.plan import Plan
from twinstep.programs import first_steps, lower
from twinstep.programs.neighbours import mixing_weights, neighbours
from twinstep.scenario import load_scenario
from twinstep.topologies import Topology, TopologyError

TORUS = {"builder": "torus", "dimensions": [2, 4], "link": LINK, "internal_link": FREE}
WIDE = {"kind": "mlp", "hidden": [512, 512], "batch": 240}


def graph(*links: tuple[str, str], hosts: int) -> dict[str, Any]:
    """Describe hosts h0, h1, ... with a device each, switches of any other name, and links."""
    names = [f"h{index}" for index in range(hosts)]
    switches = dict.fromkeys(end for link in links for end in link if end not in names)
    nodes = [{"kind": "host", "name": name} for name in names]
    nodes += [{"kind": "switch", "name": name} for name in switches]
    nodes += [{"kind": "device", "name": f"{name}/d", "host": name, "device": RATES, "link": FREE} for name in names]
    return {
        "builder": "graph",
        "nodes": nodes,
        "links": [{"source": source, "target": target} | LINK for source, target in links],
    }


def plan_of(topology: dict[str, Any], workers: int, **changes: Any) -> tuple[Plan, Topology]:
    sync = {"method": "gossip", "neighbours": "topology"} | changes.pop("sync", {})
    return make(topology, partition={"data": workers}, sync=sync, **changes)


def around(topology: dict[str, Any], workers: int) -> list[set[int]]:
    return [set(peers) for peers in neighbours(plan_of(topology, workers)[0])]


def test_on_a_torus_they_are_those_of_the_torus() -> None:
    """Hosts 0 to 3 are the first row of two: one neighbour across, two along the row."""
    expected = [
        {4 * (1 - row) + column, 4 * row + (column + 1) % 4, 4 * row + (column - 1) % 4}
        for row, column in itertools.product(range(2), range(4))
    ]
    assert around(TORUS, 8) == expected


def test_on_a_ring_they_are_those_of_the_ring() -> None:
    ring = {"builder": "ring", "hosts": 6, "link": LINK}
    assert neighbours(plan_of(ring, 6)[0]) == neighbours(plan_of(ring, 6, sync={"neighbours": "ring"})[0])


@pytest.mark.parametrize("builder", ["star", "fully_connected"])
def test_around_a_switch_everybody_is_near(builder: str) -> None:
    assert around({"builder": builder, "hosts": 5, "link": LINK}, 4) == [{0, 1, 2, 3} - {rank} for rank in range(4)]


def test_ranks_of_a_host_are_near_and_hosts_without_ranks_pass_on() -> None:
    """Six devices on three hosts of a ring of four: the fourth is idle, so host 0 and host 2 are not nearest."""
    ring = {"builder": "ring", "hosts": 4, "devices_per_host": 2, "link": LINK}
    assert around(ring, 6) == [
        {1, 2, 3},
        {0, 2, 3},
        *([{0, 1, 2, 3, 4, 5} - {rank} for rank in (2, 3)]),
        {2, 3, 5},
        {2, 3, 4},
    ]


def test_who_is_nearest_to_another_is_its_neighbour() -> None:
    """h2 hangs behind two switches on h0, whose nearest is h1; the relation goes both ways."""
    assert around(graph(("h0", "h1"), ("h0", "s"), ("s", "t"), ("t", "h2"), hosts=3), 3) == [{1, 2}, {0}, {0}]


UNEQUAL = {
    "path": graph(("h0", "h1"), ("h1", "h2"), ("h2", "h3"), hosts=4),
    "hub": graph(*((f"h{index}", "h0") for index in range(1, 6)), hosts=6),
    "torus": TORUS,
}
WORKERS = {"path": 4, "hub": 6, "torus": 8}


@pytest.fixture(params=UNEQUAL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(name: str) -> Plan:
    run = {"steps": 4, "warmup": 0, "compute": "emulated", "learning": True}
    workload = {"kind": "linear_regression", "optimizer": {"kind": "sgd", "learning_rate": 0.02}}
    return plan_of(UNEQUAL[name], WORKERS[name], run=run, workload=workload)[0]


def test_weights_are_symmetric_and_leave_something_for_oneself(plan: Plan) -> None:
    peers = neighbours(plan)
    weights = mixing_weights(peers)
    for one, others in enumerate(peers):
        for other in others:
            assert weights[one][other] == weights[other][one] == 1 / (1 + max(len(others), len(peers[other])))
        assert 0 < 1 - sum(weights[one].values()) <= 1


def gossip_once(learners: list[Any], peers: list[Mapping[int, float]]) -> None:
    for learner in learners:
        learner.offer()
    for learner, others in zip(learners, peers, strict=True):
        for other in others:
            learner.received(other)[:] = learners[other].offered()
    for learner in learners:
        learner.average()


def test_gossip_keeps_the_mean_and_draws_workers_together(plan: Plan) -> None:
    """As the matrix of the weights says: x <- W x; its second eigenvalue bounds how slowly."""
    programs = lower(plan)
    peers = [programs._peers(rank) for rank in range(plan.ranks)]  # type: ignore[attr-defined]
    learners: list[Any] = [local_learner(plan, rank, Share(range(10)), each) for rank, each in enumerate(peers)]
    generator = np.random.default_rng(0)
    for learner in learners:
        learner._values[:] = generator.standard_normal(len(learner._values))
    matrix = np.zeros((plan.ranks, plan.ranks))
    for rank, weights in enumerate(peers):
        matrix[rank, list(weights)] = list(weights.values())
        matrix[rank, rank] = 1 - sum(weights.values())
    second = sorted(np.abs(np.linalg.eigvalsh(matrix)))[-2]
    assert second < 1
    for _ in range(5):
        before = np.array([learner._values for learner in learners])
        gossip_once(learners, peers)
        after = np.array([learner._values for learner in learners])
        assert after == pytest.approx(matrix @ before, abs=1e-5)
        assert after.mean(axis=0) == pytest.approx(before.mean(axis=0), abs=1e-6)
        spread = [np.linalg.norm(values - values.mean(axis=0)) for values in (before, after)]
        assert spread[1] <= second * spread[0] + 1e-5


def test_each_message_has_its_receiver(plan: Plan) -> None:
    programs = lower(plan).outline
    found: dict[str, set[tuple[int, int]]] = {"send": set(), "recv": set()}
    for rank in range(plan.ranks):
        for effect in first_steps(programs.program(rank)):
            if hasattr(effect, "announced"):
                found[effect.kind].add((effect.source, effect.target))
    assert found["send"] == found["recv"] == {(a, b) for a, others in enumerate(neighbours(plan)) for b in others}


def test_on_a_torus_a_round_takes_one_message_over_each_link() -> None:
    """S/B and one hop: each neighbour has a link of its own. On the ring of the ranks some ways are longer."""
    run = {"steps": 2, "warmup": 0, "compute": "emulated"}
    known = {"workload": WIDE, "run": run, "communication": {"library": "ideal"}}
    plan, topology = plan_of(TORUS, 8, **known)
    size = sum(parameter.size_bytes for parameter in lower(plan).model(0).parameters)  # type: ignore[attr-defined]
    alone = predict(*plan_of(TORUS, 8, sync={"every": 2}, **known)).timeline
    alone_s = max(alone.steps()[0].values())
    averaging_s = 3 * (size / 4 / 100e9 + 3 * size / 50e9 + 5e-6)  # adds three neighbours' parameters
    time_s = predict(plan, topology).timeline.step_time_s()
    assert time_s - alone_s == pytest.approx(size / BYTES_PER_S + 5e-6 + averaging_s, rel=1e-3)
    ring_s = predict(*plan_of(TORUS, 8, sync={"neighbours": "ring"}, **known)).timeline.step_time_s()
    assert ring_s > time_s


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "topology={file: two-tier-4x4}"],
        ["--set", "topology={file: fat-tree-16}"],
    ],
)
def test_neighbours_that_do_not_reach_everybody_are_refused(
    arguments: list[str], run_cli: Callable[..., Ended]
) -> None:
    """The nearest of a host are those of its rack."""
    ended = run_cli("check", "gossip-ring", "--set", "sync.neighbours=topology", *arguments)
    assert_refused(ended, "", "sync.neighbours is topology", "never hears of", "set sync.neighbours to ring")


@pytest.mark.slow
def test_too_many_neighbours_are_refused() -> None:
    star = {"builder": "star", "hosts": 1500, "link": LINK}
    with pytest.raises(TopologyError, match="pairs of neighbours"):
        neighbours(plan_of(star, 1500, workload=WIDE | {"batch": 1500})[0])


def test_neighbours_are_for_gossip(run_cli: Callable[..., Ended]) -> None:
    ended = run_cli("check", "local-sgd-8", "--set", "sync.neighbours=topology")
    assert_refused(ended, "", "sync.neighbours applies to sync.method gossip", "leave it out")


@pytest.mark.slow
def test_the_shipped_scenario_runs_on_a_torus(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    torus = "topology={builder: torus, dimensions: [2, 4], device: cpu, link: {bandwidth: 100 Mb/s, latency: 1 us}}"
    overrides = ["sync.neighbours=topology", torus]
    plan = load_scenario("gossip-ring", overrides).plan
    assert {len(peers) for peers in neighbours(plan)} == {3}
    ended = run_cli("predict", "gossip-ring", "--set", overrides[0], "--set", overrides[1], "--out", tmp_path)
    assert ended.code == 0, ended.err
