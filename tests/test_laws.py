"""Closed forms that whole plans must meet in the simulator, on symmetric and on asymmetric cases."""

from __future__ import annotations

from typing import Any

import pytest
from tests.small_plans import BYTES_PER_S, FREE, LINK, RATES, alone_s, make, predict, star

from twinstep.costs import RooflineCosts, compute_s
from twinstep.effects import Compute
from twinstep.kernels import Kernel
from twinstep.plan import Plan
from twinstep.programs import DataParallel

SMALL_BUCKETS = {"bucket": "64 KiB"}


def compute_total_s(plan: Plan, rank: int = 0) -> float:
    """Add up a rank's computation of a step, by the roofline itself."""
    costs = RooflineCosts(100e9, 50e9, 5e-6)
    model = DataParallel(plan).model(rank)
    kernels = [*model.load, *model.optimizer]
    kernels += [kernel for layer in model.layers for kernel in (*layer.forward, *layer.backward)]
    return sum(costs.kernel_s(kernel) for kernel in kernels)


def step_s(topology: dict[str, Any], **changes: Any) -> float:
    return predict(*make(topology, **changes)).timeline.step_time_s()


def test_one_rank_is_pure_compute() -> None:
    plan, topology = make({"builder": "one_host", "devices": 1})
    simulation = predict(plan, topology)
    assert simulation.timeline.step_times_s() == pytest.approx([compute_total_s(plan)] * 4, rel=1e-12)
    assert not [span for span in simulation.timeline.spans if span.phase == "communication"]
    assert simulation.links() == ()


def test_the_slowest_link_sets_the_pace_of_a_ring_on_an_asymmetric_graph() -> None:
    links = {name: {"latency": "1 us", "bandwidth": rate} for name, rate in (("fast", "80 Gb/s"), ("slow", "8 Gb/s"))}
    nodes: list[dict[str, Any]] = [{"kind": "switch", "name": "s"}]
    for host in ("a", "b", "c"):
        nodes.append({"kind": "host", "name": host})
        nodes.append({"kind": "device", "name": f"{host}0", "host": host, "device": RATES, "link": links["fast"]})
    joints = [{"source": host, "target": "s", **links["slow" if host == "c" else "fast"]} for host in ("a", "b", "c")]
    graph = {"builder": "graph", "nodes": nodes, "links": joints}
    found_s = alone_s(graph, 3, "all_reduce", 3 * 10**6, algorithm="ring")
    assert found_s == pytest.approx(4 * (4 * 1e-6 + 10**6 / 1e9), rel=1e-12)


@pytest.mark.parametrize(("order", "crossings"), [("abcd", 1), ("acbd", 2)])
def test_rank_order_decides_how_often_a_ring_crosses_the_racks(order: str, crossings: int) -> None:
    """Hosts a and b are in one rack, c and d in the other; in the order a c b d every hop crosses the uplinks."""
    nodes: list[dict[str, Any]] = [{"kind": "switch", "name": name} for name in ("left", "right")]
    for host in order:
        nodes.append({"kind": "host", "name": host})
        nodes.append({"kind": "device", "name": f"{host}0", "host": host, "device": RATES, "link": FREE})
    links = [{"source": host, "target": "left" if host in "ab" else "right", **LINK} for host in order]
    links.append({"source": "left", "target": "right", **LINK})
    found_s = alone_s(
        {"builder": "graph", "nodes": nodes, "links": links}, 4, "all_reduce", 4 * 10**6, algorithm="ring"
    )
    assert found_s == pytest.approx(6 * (3 * 5e-6 + crossings * 10**6 / BYTES_PER_S), rel=1e-6)


def test_half_duplex_links_carry_both_directions_in_turn() -> None:
    full_s = alone_s(star(4), 4, "all_reduce", 4 * 10**6, algorithm="ring")
    half_s = alone_s(star(4, duplex="half"), 4, "all_reduce", 4 * 10**6, algorithm="ring")
    assert half_s - full_s == pytest.approx(6 * 10**6 / BYTES_PER_S, rel=1e-6)


def test_without_overlap_a_step_is_compute_plus_communication() -> None:
    sync = {"overlap": False, "bucket": "64 KiB"}
    plan, _ = make(star(3), partition={"data": 3}, sync=sync)
    sizes = [bucket.size_bytes for bucket in DataParallel(plan).buckets]
    assert len(sizes) > 1
    communication_s = sum(alone_s(star(3), 3, "all_reduce", size, library="gloo", algorithm="auto") for size in sizes)
    found_s = step_s(star(3), partition={"data": 3}, sync=sync)
    assert found_s == pytest.approx(compute_total_s(plan) + communication_s, rel=1e-9)


def test_overlap_hides_communication_but_never_more_than_there_is_compute() -> None:
    plan, _ = make(star(3), partition={"data": 3})
    overlapped_s = step_s(star(3), partition={"data": 3}, sync=SMALL_BUCKETS | {"overlap": True})
    plain_s = step_s(star(3), partition={"data": 3}, sync=SMALL_BUCKETS | {"overlap": False})
    assert compute_total_s(plan) < overlapped_s < plain_s


def test_a_straggler_holds_the_others_back() -> None:
    run = {"steps": 3, "warmup": 1, "compute": "emulated", "stragglers": [{"rank": 1, "slowdown": 2.0}]}
    plan, _ = make(star(3), partition={"data": 3})
    slow_s = step_s(star(3), partition={"data": 3}, sync={"overlap": False}, run=run)
    fast_s = step_s(star(3), partition={"data": 3}, sync={"overlap": False})
    assert slow_s == pytest.approx(fast_s + compute_total_s(plan, rank=1), rel=1e-9)


@pytest.mark.parametrize("rate", ["1 Gb/s", "10 Gb/s", "100 Gb/s"])
def test_more_bandwidth_is_never_slower(rate: str) -> None:
    doubled = f"{2 * int(rate.split(maxsplit=1)[0])} Gb/s"
    slow_s = step_s(star(4, bandwidth=rate), partition={"data": 4}, sync=SMALL_BUCKETS)
    fast_s = step_s(star(4, bandwidth=doubled), partition={"data": 4}, sync=SMALL_BUCKETS)
    assert fast_s <= slow_s


def test_topology_matters() -> None:
    near_s = step_s(star(4), partition={"data": 4})
    uplink = LINK | {"latency": "1 ms"}
    racks = {"builder": "two_tier", "racks": 4, "hosts_per_rack": 1, "link": LINK, "uplink": uplink}
    far_s = step_s(racks | {"internal_link": FREE}, partition={"data": 4})
    assert far_s - near_s == pytest.approx(6 * 2e-3, rel=1e-9)


@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", ["gpipe", "one_forward_one_backward"])
def test_a_pipeline_of_even_stages_idles_for_its_bubble(schedule: str, microbatches: int) -> None:
    """Stages in the middle are even; with p stages the first waits (p - 1) passes of the others, forward and back."""
    stages = 4
    plan, topology = make(
        star(stages) | {"link": FREE},
        workload={"kind": "gpt", "layers": stages, "heads": 2, "width": 32, "context": 8, "batch": microbatches},
        partition={"pipeline": stages, "microbatches": microbatches, "schedule": schedule},
    )
    timeline = predict(plan, topology).timeline
    step = [span for span in timeline.spans if span.step == 2 and span.lane == "compute"]
    busy = {
        rank: {
            phase: sum(span.duration_s for span in step if span.rank == rank and span.phase == phase)
            for phase in ("forward", "backward")
        }
        for rank in range(stages)
    }
    slowest = {phase: max(times[phase] for times in busy.values()) for phase in ("forward", "backward")}
    waits_s = sum(span.duration_s for span in step if span.rank == 1 and span.phase == "exposed_communication")
    assert 0 < waits_s <= (stages - 1) * sum(slowest.values()) + 1e-6
    first, last = busy[0], busy[stages - 1]
    fill_s = sum(busy[rank]["forward"] + busy[rank]["backward"] for rank in range(1, stages)) / microbatches
    least_s = sum(first.values()) + fill_s
    bounds_s = max(least_s, sum(last.values()))
    assert timeline.step_time_s() >= bounds_s * (1 - 1e-9)


def test_compute_of_an_effect_is_the_sum_of_its_kernels() -> None:
    kernels = (Kernel("relu_forward", (1000,)), Kernel("linear_forward", (10, 20, 30)))
    costs = RooflineCosts(1e9, 1e9, 0.0)
    by_hand_s = (1000 + 2 * 10 * 20 * 30) / 1e9 + 4 * (2000 + 10 * 20 + 20 * 30 + 10 * 30) / 1e9
    assert compute_s(Compute("forward", kernels, 0), costs) == pytest.approx(by_hand_s, rel=1e-12)
