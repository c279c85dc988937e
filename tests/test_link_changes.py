"""Links that change, fail and come back during a run."""

from __future__ import annotations

from typing import Any

import pytest
from tests.small_plans import BYTES_PER_S, FREE, HOP_S, LINK, alone_s, bench, make, predict, star

from twinstep.errors import InputError
from twinstep.sim.algorithms import ALGORITHMS, Request

ALL_REDUCE = [name for name, algorithm in ALGORITHMS.items() if algorithm(Request("all_reduce", 8, 1.0))]
"""The algorithms that have an all-reduce of eight ranks on eight hosts."""


def test_a_link_that_slows_down_delays_what_is_left() -> None:
    """One message over 10 Gb/s; after a tenth of a second the link of the second host has a quarter of that."""
    change = {"source": "host1", "target": "switch0", "at": "100 ms", "bandwidth": "2.5 Gb/s"}
    plan, topology = bench(star(2), 2, "broadcast", 250 * 10**6, algorithm="direct")
    plan = plan.model_copy(update={"run": make(star(2), run={
        "steps": 1, "warmup": 0, "compute": "emulated", "link_changes": [change],
    })[0].run})  # fmt: skip
    sent = (0.1 - HOP_S) * BYTES_PER_S
    expected_s = 0.1 + (250e6 - sent) / (BYTES_PER_S / 4)
    assert predict(plan, topology).timeline.step_time_s() == pytest.approx(expected_s, rel=1e-6)


def with_failure(topology: dict[str, Any], ranks: int, at: str, source: str, target: str) -> float:
    change = {"source": source, "target": target, "at": at}
    plan, built = make(
        topology,
        workload={"kind": "collective", "collective": "all_reduce", "size": "100 MB"},
        partition={"data": ranks},
        communication={"library": "ideal", "algorithm": "ring"},
        run={"steps": 1, "warmup": 0, "compute": "emulated", "link_changes": [change]},
    )
    return predict(plan, built).timeline.step_time_s()


def test_traffic_of_a_link_that_fails_takes_the_other_way_round() -> None:
    """A ring of cables is cut: the hop that used the cable goes the other way, against nobody's traffic."""
    cables = {"builder": "ring", "hosts": 4, "link": LINK, "internal_link": FREE}
    whole_s = alone_s(cables, 4, "all_reduce", 100 * 10**6, algorithm="ring")
    cut_s = with_failure(cables, 4, "50 ms", "host1", "host2")
    assert cut_s == pytest.approx(whole_s, rel=1e-6)
    one_way = {"builder": "star", "hosts": 4, "link": LINK, "internal_link": FREE}
    with pytest.raises(InputError, match="a link that failed was the only one"):
        with_failure(one_way, 4, "50 ms", "host1", "switch0")


def test_a_link_that_comes_back_carries_its_traffic_again() -> None:
    """Of two equal jobs through a ring of cables, what was rerouted returns; every byte is counted where it went."""
    ends = {"source": "host1", "target": "host2"}
    run = {
        "steps": 1,
        "warmup": 0,
        "compute": "emulated",
        "link_changes": [ends | {"at": "20 ms"}, ends | {"at": "40 ms", "bandwidth": "10 Gb/s"}],
    }
    workload = {"kind": "collective", "collective": "all_reduce", "size": "100 MB"}
    communication = {"library": "ideal", "algorithm": "ring"}
    cables = {"builder": "ring", "hosts": 4, "link": LINK, "internal_link": FREE}
    plan, built = make(cables, workload=workload, partition={"data": 4}, communication=communication, run=run)
    simulation = predict(plan, built)
    carried = {(link.source, link.target): link.size_bytes for link in simulation.links()}
    whole = 6 / 4 * 100e6
    away = 20e-3 * BYTES_PER_S
    assert carried["host1", "host2"] == pytest.approx(whole - away, rel=1e-6)
    assert carried["host1", "host0"] == carried["host0", "host3"] == pytest.approx(away, rel=1e-6)


@pytest.mark.parametrize("algorithm", ALL_REDUCE)
def test_links_that_change_at_once_are_as_if_they_had_been_built_so(algorithm: str) -> None:
    slow = [
        {"source": f"host{host}", "target": "switch0", "at": "0.001 ns", "bandwidth": "1 Gb/s"} for host in range(8)
    ]
    workload = {"kind": "collective", "collective": "all_reduce", "size": "4 MiB"}
    times_s = []
    for topology, changes in ((star(8, bandwidth="100 Gb/s"), slow), (star(8, bandwidth="1 Gb/s"), [])):
        run = {"steps": 1, "warmup": 1, "compute": "emulated", "link_changes": changes}
        communication = {"library": "ideal", "algorithm": algorithm}
        plan, built = make(topology, workload=workload, partition={"data": 8}, communication=communication, run=run)
        times_s.append(predict(plan, built).timeline.step_time_s())
    assert times_s[0] == pytest.approx(times_s[1], rel=1e-4)


def test_utilisation_is_of_what_a_link_offered_at_the_time() -> None:
    cables = {"builder": "ring", "hosts": 4, "link": LINK, "internal_link": FREE}
    faster = [
        {"source": f"host{h}", "target": f"host{(h + 1) % 4}", "at": "1 us", "bandwidth": "100 Gb/s"} for h in range(4)
    ]
    workload = {"kind": "collective", "collective": "all_reduce", "size": "100 MB"}
    run = {"steps": 1, "warmup": 0, "compute": "emulated", "link_changes": faster}
    communication = {"library": "ideal", "algorithm": "ring"}
    plan, built = make(cables, workload=workload, partition={"data": 4}, communication=communication, run=run)
    busiest = max(predict(plan, built).links(), key=lambda link: link.utilisation)
    assert busiest.utilisation == pytest.approx(1, rel=0.01)


def test_a_failure_after_the_end_of_the_run_changes_nothing() -> None:
    whole_s = alone_s(star(4), 4, "all_reduce", 100 * 10**6, algorithm="ring")
    assert with_failure(star(4), 4, "1 h", "host1", "switch0") == whole_s


def test_two_changes_of_a_link_at_one_time_are_refused() -> None:
    ends = {"source": "host0", "target": "switch0", "at": "1 ms"}
    run = {"compute": "emulated", "link_changes": [ends | {"bandwidth": "1 Gb/s"}, ends]}
    with pytest.raises(ValueError, match="two changes of 'host0' to 'switch0' at one time"):
        make(star(2), run=run)
