"""Closed forms that the simulator must meet, on symmetric and on asymmetric cases."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import simpy

from twinstep.costs import RooflineCosts, compute_s
from twinstep.effects import Collective, Compute
from twinstep.kernels import Kernel
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import DataParallel
from twinstep.sim import simulate
from twinstep.sim.fluid import Fluid, max_min_rates
from twinstep.sim.libraries import Gloo
from twinstep.timeline import Timeline
from twinstep.topologies import Topology, load

RATES = {"peak": "100 GFLOP/s", "memory_bandwidth": "50 GB/s", "overhead": "5 us"}
LINK = {"bandwidth": "10 Gb/s", "latency": "5 us"}


def emulated_plan(topology: dict[str, object], **changes: object) -> tuple[Plan, Topology]:
    """Make a plan of an MLP on devices that exist only in the model."""
    data: dict[str, object] = {
        "workload": {"kind": "mlp", "hidden": [256, 128], "batch": 240},
        "topology": topology if "nodes" in topology else {"device": RATES} | topology,
        "run": {"steps": 4, "warmup": 1, "compute": "emulated"},
    }
    plan = Plan.model_validate(data | changes)
    return plan, load(plan.topology, folder=None)  # type: ignore[arg-type]


def predicted(plan: Plan, topology: Topology) -> Timeline:
    return simulate(plan, DataParallel(plan), topology, None).timeline


def star(hosts: int, **link: str) -> dict[str, object]:
    return {"builder": "star", "hosts": hosts, "link": LINK | link, "internal_link": LINK | {"bandwidth": "100 Gb/s"}}


def compute_total_s(plan: Plan, rank: int = 0) -> float:
    """Add up a rank's computation of a step, by the roofline itself."""
    costs = RooflineCosts(100e9, 50e9, 5e-6)
    model = DataParallel(plan).model(rank)
    kernels = [*model.load, *model.optimizer]
    kernels += [kernel for layer in model.layers for kernel in (*layer.forward, *layer.backward)]
    return sum(costs.kernel_s(kernel) for kernel in kernels)


def test_one_rank_is_pure_compute() -> None:
    plan, topology = emulated_plan({"builder": "one_host", "devices": 1})
    timeline = predicted(plan, topology)
    assert timeline.step_times_s() == pytest.approx([compute_total_s(plan)] * 4, rel=1e-12)
    assert not [span for span in timeline.spans if span.phase == "communication"]


@pytest.mark.parametrize(("hosts", "size_bytes"), [(2, 4096), (3, 10**6), (5, 64 * 2**20), (8, 12)])
def test_ring_all_reduce_on_a_star_is_the_closed_form(hosts: int, size_bytes: int) -> None:
    _, topology = emulated_plan(star(hosts))
    effect = Collective("all_reduce", group="data", size_bytes=size_bytes, lane="data", bucket=0)
    cost = Gloo(topology, None).cost(effect, tuple(range(hosts)))
    hop_latency_s = 4 * 5e-6  # device, host, switch, host, device
    bandwidth_bytes_per_s = 10e9 / 8
    expected_s = 2 * (hosts - 1) * (hop_latency_s + size_bytes / (hosts * bandwidth_bytes_per_s))
    assert cost.elapsed_s == pytest.approx(expected_s, rel=1e-12)


def test_the_slowest_link_sets_the_pace_of_a_ring_on_an_asymmetric_graph() -> None:
    links = {name: {"latency": "1 us", "bandwidth": rate} for name, rate in (("fast", "80 Gb/s"), ("slow", "8 Gb/s"))}
    nodes: list[dict[str, object]] = [{"kind": "switch", "name": "s"}]
    for host in ("a", "b", "c"):
        nodes.append({"kind": "host", "name": host})
        nodes.append({"kind": "device", "name": f"{host}0", "host": host, "device": RATES, "link": links["fast"]})
    joints = [{"source": host, "target": "s", **links["slow" if host == "c" else "fast"]} for host in ("a", "b", "c")]
    _, topology = emulated_plan({"builder": "graph", "nodes": nodes, "links": joints})
    effect = Collective("all_reduce", group="data", size_bytes=3 * 10**6, lane="data", bucket=0)
    elapsed_s = Gloo(topology, None).cost(effect, (0, 1, 2)).elapsed_s
    assert elapsed_s == pytest.approx(4 * (4 * 1e-6 + 10**6 / 1e9), rel=1e-12)


def test_a_link_that_two_hops_share_halves_the_ring() -> None:
    """Ranks 0 and 2 sit in one rack, 1 and 3 in the other: every hop crosses the uplinks, two in each direction."""
    racks = {"builder": "two_tier", "racks": 2, "hosts_per_rack": 2, "link": LINK, "uplink": LINK}
    _, topology = emulated_plan(racks)
    effect = Collective("all_reduce", group="data", size_bytes=4 * 10**6, lane="data", bucket=0)
    neighbours = Gloo(topology, None).cost(effect, (0, 1, 2, 3))
    crossing = Gloo(topology, None).cost(effect, (0, 2, 1, 3))
    bandwidth_s = 6 * 10**6 / (10e9 / 8)
    latencies_s = 6 * (2 * 1e-6 + 4 * 5e-6)
    assert crossing.elapsed_s == pytest.approx(latencies_s + 2 * bandwidth_s, rel=1e-9)
    assert neighbours.elapsed_s == pytest.approx(latencies_s + bandwidth_s, rel=1e-9)


@pytest.mark.parametrize("at_once", [1, 2])
def test_gloo_on_one_host_gives_back_what_was_measured(at_once: int, profile: Profile) -> None:
    """One all-reduce takes the measured time, two at once the one that was measured for two."""
    table = profile.collectives["gloo"]["all_reduce"]
    row, column = table.ranks.index(4), table.sizes_bytes.index(2**20)
    measured_s = [table.elapsed_s[row][column], table.paired_s[row][table.shared_sizes_bytes.index(2**20)]]
    _, topology = emulated_plan({"builder": "one_host", "devices": 4})
    effect = Collective("all_reduce", group="data", size_bytes=2**20, lane="data", bucket=0)
    cost = Gloo(topology, profile).cost(effect, (0, 1, 2, 3))
    env = simpy.Environment()
    fluid = Fluid(env, {host: float(profile.machine.cores) for host in topology.hosts})
    ends_s: list[float] = []
    for _ in range(at_once):
        fluid.start(cost.elapsed_s, cost.weights, lambda: ends_s.append(env.now), crowded_rate=cost.crowded_rate)
    env.run()
    assert ends_s == pytest.approx([measured_s[at_once - 1]] * at_once, rel=1e-9)


def test_without_overlap_a_step_is_compute_plus_communication() -> None:
    plan, topology = emulated_plan(star(3), partition={"data": 3}, sync={"overlap": False, "bucket": "64 KiB"})
    effects = [
        Collective("all_reduce", group="data", size_bytes=b.size_bytes, lane="data", bucket=b.index)
        for b in DataParallel(plan).buckets
    ]
    assert len(effects) > 1
    communication_s = sum(Gloo(topology, None).cost(effect, (0, 1, 2)).elapsed_s for effect in effects)
    expected_s = compute_total_s(plan) + communication_s
    assert predicted(plan, topology).step_time_s() == pytest.approx(expected_s, rel=1e-9)


def test_overlap_hides_communication_but_never_more_than_there_is_compute() -> None:
    sync = {"bucket": "64 KiB"}
    plan, topology = emulated_plan(star(3), partition={"data": 3}, sync=sync | {"overlap": True})
    plain, _ = emulated_plan(star(3), partition={"data": 3}, sync=sync | {"overlap": False})
    overlapped_s, plain_s = predicted(plan, topology).step_time_s(), predicted(plain, topology).step_time_s()
    assert compute_total_s(plan) < overlapped_s < plain_s


def test_a_straggler_holds_the_others_back() -> None:
    run = {"steps": 3, "warmup": 1, "compute": "emulated", "stragglers": [{"rank": 1, "slowdown": 2.0}]}
    plan, topology = emulated_plan(star(3), partition={"data": 3}, sync={"overlap": False}, run=run)
    even, _ = emulated_plan(star(3), partition={"data": 3}, sync={"overlap": False})
    slow, fast = predicted(plan, topology), predicted(even, topology)
    assert slow.step_time_s() == pytest.approx(fast.step_time_s() + compute_total_s(plan, rank=1), rel=1e-9)


@pytest.mark.parametrize("rate", ["1 Gb/s", "10 Gb/s", "100 Gb/s"])
def test_more_bandwidth_is_never_slower(rate: str) -> None:
    doubled = f"{2 * int(rate.split(maxsplit=1)[0])} Gb/s"
    slow, slow_graph = emulated_plan(star(4, bandwidth=rate), partition={"data": 4}, sync={"bucket": "64 KiB"})
    fast, fast_graph = emulated_plan(star(4, bandwidth=doubled), partition={"data": 4}, sync={"bucket": "64 KiB"})
    assert predicted(fast, fast_graph).step_time_s() <= predicted(slow, slow_graph).step_time_s()


def test_topology_matters() -> None:
    near, near_graph = emulated_plan(star(4), partition={"data": 4})
    racks = {"builder": "two_tier", "racks": 4, "hosts_per_rack": 1, "link": LINK, "uplink": LINK | {"latency": "1 ms"}}
    far, far_graph = emulated_plan(racks, partition={"data": 4})
    added_s = 6 * (2 * (1e-6 + 5e-6 + 1e-3) - 4 * 5e-6)
    difference_s = predicted(far, far_graph).step_time_s() - predicted(near, near_graph).step_time_s()
    assert difference_s == pytest.approx(added_s, rel=1e-9)


def fluid_times(capacity: float, works: list[tuple[float, float, float]]) -> list[float]:
    """Run activities (start, work, weight) on one resource; give when each is done."""
    env = simpy.Environment()
    fluid = Fluid(env, {"r": capacity})
    ends = [math.nan] * len(works)

    def finish(index: int) -> None:
        ends[index] = env.now

    def begin(index: int, start_s: float, work_s: float, weight: float):  # type: ignore[no-untyped-def]
        yield env.timeout(start_s)
        fluid.start(work_s, {"r": weight}, lambda: finish(index))

    for index, (start_s, work_s, weight) in enumerate(works):
        env.process(begin(index, start_s, work_s, weight))
    env.run()
    return ends


def test_equal_sharers_take_as_many_times_as_long() -> None:
    assert fluid_times(2.0, [(0, 1.0, 1.0)] * 5) == pytest.approx([2.5] * 5, rel=1e-12)


def test_a_late_comer_gets_its_share_and_gives_it_back() -> None:
    """One core: work of 3 s from 0, work of 1 s from 1; they share from 1 to 3, then the first has 1 s left."""
    assert fluid_times(1.0, [(0, 3.0, 1.0), (1, 1.0, 1.0)]) == pytest.approx([4.0, 3.0], rel=1e-12)


def test_what_one_cannot_use_goes_to_the_others() -> None:
    """Of two resources the activity that uses both is held back by the scarcer one alone."""
    weights = [{"a": 1.0}, {"a": 1.0, "b": 4.0}]
    assert max_min_rates(weights, {"a": 1.0, "b": 1.0}, [1.0, 1.0]) == pytest.approx([0.75, 0.25])


def test_what_sleeps_and_wakes_waits_for_busy_cores() -> None:
    """Two computations of 4 s fill two cores; a collective of 1 s at half a core crawls at a tenth until they end."""
    env = simpy.Environment()
    fluid = Fluid(env, {"cores": 2.0})
    ends: dict[str, float] = {}
    for name in ("a", "b"):
        fluid.start(4.0, {"cores": 1.0}, lambda name=name: ends.setdefault(name, env.now))
    fluid.start(1.0, {"cores": 0.5}, lambda: ends.setdefault("collective", env.now), crowded_rate=0.1)
    env.run()
    computing_s = 4.0 / (1.95 / 2)
    assert ends["a"] == pytest.approx(computing_s, rel=1e-12)
    assert ends["collective"] == pytest.approx(computing_s + (1 - 0.1 * computing_s), rel=1e-12)


def test_work_is_conserved_on_a_busy_resource() -> None:
    generator = random.Random(7)
    for _ in range(50):
        works = [(0.0, generator.uniform(0.1, 2), generator.uniform(0.2, 3)) for _ in range(6)]
        demand = sum(weight for _, _, weight in works)
        ends = fluid_times(1e-3 * demand, works)
        assert max(ends) == pytest.approx(sum(w * s for _, s, w in works) / (1e-3 * demand), rel=1e-9)


def test_rates_are_max_min() -> None:
    """No activity can gain without one that is no better off losing: each below 1 is held by a full resource."""
    generator = random.Random(11)
    for _, resources in itertools.product(range(100), (1, 3)):
        capacities = {f"r{i}": generator.uniform(0.5, 3) for i in range(resources)}
        users = []
        for _ in range(generator.randint(1, 7)):
            used = generator.sample(sorted(capacities), generator.randint(1, resources))
            users.append({name: generator.uniform(0.1, 2) for name in used})
        rates = max_min_rates(users, capacities, [1.0] * len(users))
        loads = {name: sum(u.get(name, 0) * r for u, r in zip(users, rates, strict=True)) for name in capacities}
        assert all(loads[name] <= capacity * (1 + 1e-9) for name, capacity in capacities.items())
        for user, rate in zip(users, rates, strict=True):
            full = [name for name in user if loads[name] >= capacities[name] * (1 - 1e-9)]
            best = [max(r for u, r in zip(users, rates, strict=True) if name in u) for name in full]
            assert rate == pytest.approx(1.0) or any(rate >= other - 1e-9 for other in best)


def test_compute_of_an_effect_is_the_sum_of_its_kernels() -> None:
    kernels = (Kernel("relu_forward", (1000,)), Kernel("linear_forward", (10, 20, 30)))
    costs = RooflineCosts(1e9, 1e9, 0.0)
    by_hand_s = (1000 + 2 * 10 * 20 * 30) / 1e9 + 4 * (2000 + 10 * 20 + 20 * 30 + 10 * 30) / 1e9
    assert compute_s(Compute("forward", kernels, 0), costs) == pytest.approx(by_hand_s, rel=1e-12)
