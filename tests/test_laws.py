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
from twinstep.programs.schedules import Slot, gpipe, one_forward_one_backward
from twinstep.programs.stage import stage_parts

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


def passes_s(plan: Plan, stage: int) -> dict[str, float]:
    """Give what a forward and a backward pass of one microbatch take on a stage, by the roofline itself."""
    costs = RooflineCosts(100e9, 50e9, 5e-6)
    layers = [part.layer for part in stage_parts(plan, stage)]
    return {
        "F": sum(costs.kernel_s(kernel) for layer in layers for kernel in layer.forward),
        "B": sum(costs.kernel_s(kernel) for layer in layers for kernel in layer.backward),
    }


def staircase_s(orders: list[list[Slot]], durations: list[dict[str, float]]) -> float:
    """Work out when the last pass ends: a pass waits for the one before it on its stage and for its neighbour's."""
    stages = len(orders)
    free, ends, waiting = [0.0] * stages, dict[tuple[int, Slot], float](), [list(order) for order in orders]
    while any(waiting):
        for stage, order in enumerate(waiting):
            neighbour = stage + (-1 if order and order[0].direction == "F" else 1)
            if not order or (0 <= neighbour < stages and (neighbour, order[0]) not in ends):
                continue
            slot = order.pop(0)
            begin_s = max(free[stage], ends.get((neighbour, slot), 0.0))
            free[stage] = ends[stage, slot] = begin_s + durations[stage][slot.direction]
    return max(free)


def orders_of(schedule: str, stages: int, microbatches: int) -> list[list[Slot]]:
    if schedule == "gpipe":
        return [gpipe(microbatches) for _ in range(stages)]
    return [one_forward_one_backward(stage, stages, microbatches) for stage in range(stages)]


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", ["gpipe", "one_forward_one_backward"])
def test_a_pipeline_takes_the_time_of_its_staircase(schedule: str, microbatches: int, stages: int) -> None:
    """Without latencies the first step's last pass ends when the schedule, worked out by itself, says."""
    plan, topology = make(
        star(stages) | {"link": FREE},
        workload={"kind": "gpt", "layers": 5, "heads": 2, "width": 32, "context": 8, "batch": microbatches},
        partition={"pipeline": stages, "microbatches": microbatches, "schedule": schedule},
    )
    durations = [passes_s(plan, stage) for stage in range(stages)]
    expected_s = staircase_s(orders_of(schedule, stages, microbatches), durations)
    spans = [span for span in predict(plan, topology).timeline.spans if span.step == 0]
    last_s = max(span.end_s for span in spans if span.phase in ("forward", "backward"))
    assert last_s == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("schedule", ["gpipe", "one_forward_one_backward"])
@pytest.mark.parametrize(("stages", "microbatches"), [(2, 1), (4, 8), (8, 8), (3, 5)])
def test_even_stages_idle_for_the_bubble_of_the_formula(schedule: str, stages: int, microbatches: int) -> None:
    slots = staircase_s(orders_of(schedule, stages, microbatches), [{"F": 1.0, "B": 1.0}] * stages)
    assert 1 - 2 * microbatches / slots == pytest.approx((stages - 1) / (microbatches + stages - 1))


def test_compute_of_an_effect_is_the_sum_of_its_kernels() -> None:
    kernels = (Kernel("relu_forward", (1000,)), Kernel("linear_forward", (10, 20, 30)))
    costs = RooflineCosts(1e9, 1e9, 0.0)
    by_hand_s = (1000 + 2 * 10 * 20 * 30) / 1e9 + 4 * (2000 + 10 * 20 + 20 * 30 + 10 * 30) / 1e9
    assert compute_s(Compute("forward", kernels, 0), costs) == pytest.approx(by_hand_s, rel=1e-12)
