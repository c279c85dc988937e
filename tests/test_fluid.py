"""The fluid: rates are max-min, work is conserved, and only what is connected to a change is computed anew."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import simpy
from tests.repeated import seeds

from twinstep.profile import Profile
from twinstep.sim.algorithms import Request
from twinstep.sim.fluid import Activity, Fluid, Load
from twinstep.sim.libraries import Gloo
from twinstep.sim.max_min import MaxMin


def on(resource: int, weight: float = 1.0) -> list[Load]:
    return [Load(resource, weight, weight)]


class Watched(Fluid):
    """A fluid that can be held against a solution of everything at once."""

    def all_activities(self) -> list[Activity]:
        return list(self._shares.rates)

    def expected(self) -> list[float]:
        fresh: MaxMin[Activity] = MaxMin(self._shares.capacities)
        for activity in self.all_activities():
            fresh.add(activity)
        rates = fresh.update()
        return [rates[activity] for activity in self.all_activities()]


@pytest.mark.parametrize("seed", seeds(30, quick=8))
def test_computing_only_what_is_connected_gives_the_rates_of_everything(seed: int) -> None:
    generator = random.Random(seed)
    env = simpy.Environment()
    fluid = Watched(env, [generator.uniform(1, 5) for _ in range(12)])
    wrong: list[float] = []

    def arrivals():  # type: ignore[no-untyped-def]
        for _ in range(80):
            yield env.timeout(generator.expovariate(4))
            loads = [Load(r, w, w) for r in generator.sample(range(12), 3) for w in [generator.choice([1.0, 2.0])]]
            fluid.start(generator.uniform(0.1, 3), loads, lambda: None, cap=generator.choice([math.inf, 0.7]))
            if generator.random() < 0.1:
                fluid.set_capacity(generator.randrange(12), generator.uniform(1, 5))

    def inspections():  # type: ignore[no-untyped-def]
        for _ in range(300):
            yield env.timeout(0.0931)
            given = [activity.rate for activity in fluid.all_activities()]
            wrong.extend(abs(a - b) / b for a, b in zip(given, fluid.expected(), strict=True))

    env.process(arrivals())
    env.process(inspections())
    env.run()
    assert len(wrong) > 100
    assert max(wrong) < 1e-9


def times(capacity: float, works: Sequence[tuple[float, float, float]]) -> list[float]:
    """Run activities (start, work, weight) on one resource, none faster than 1; give when each is done."""
    env = simpy.Environment()
    fluid = Fluid(env, [capacity])
    ends = [math.nan] * len(works)

    def begin(index: int, start_s: float, work: float, weight: float):  # type: ignore[no-untyped-def]
        yield env.timeout(start_s)
        fluid.start(work, on(0, weight), lambda: ends.__setitem__(index, env.now), cap=1.0)

    for index, (start_s, work, weight) in enumerate(works):
        env.process(begin(index, start_s, work, weight))
    env.run()
    return ends


def test_equal_sharers_take_as_many_times_as_long() -> None:
    assert times(2.0, [(0, 1.0, 1.0)] * 5) == pytest.approx([2.5] * 5, rel=1e-12)


def test_a_late_comer_gets_its_share_and_gives_it_back() -> None:
    """One core: work of 3 s from 0, work of 1 s from 1; they share from 1 to 3, then the first has 1 s left."""
    assert times(1.0, [(0, 3.0, 1.0), (1, 1.0, 1.0)]) == pytest.approx([4.0, 3.0], rel=1e-12)


def test_work_is_conserved_on_a_busy_resource() -> None:
    generator = random.Random(7)
    for _ in range(50):
        works = [(0.0, generator.uniform(0.1, 2), generator.uniform(0.2, 3)) for _ in range(6)]
        capacity = 1e-3 * sum(weight for _, _, weight in works)
        assert max(times(capacity, works)) == pytest.approx(sum(w * s for _, s, w in works) / capacity, rel=1e-9)


def test_what_sleeps_and_wakes_has_its_measured_rate_between_busy_cores() -> None:
    """Two computations fill two cores; a collective keeps its tenth, they share the rest until they end."""
    env = simpy.Environment()
    fluid = Fluid(env, [2.0])
    ends: dict[str, float] = {}
    for name in ("a", "b"):
        fluid.start(4.0, on(0), lambda name=name: ends.setdefault(name, env.now), cap=1.0)  # type: ignore[misc]
    fluid.start(1.0, on(0, 0.5), lambda: ends.setdefault("collective", env.now), cap=1.0, crowded_rate=0.1)
    env.run()
    computing_s = 4.0 / (1.95 / 2)
    assert ends["a"] == pytest.approx(computing_s, rel=1e-12)
    assert ends["collective"] == pytest.approx(computing_s + (1 - 0.1 * computing_s), rel=1e-12)


@pytest.mark.parametrize("computing", [0, 2, 4, 9])
@pytest.mark.parametrize("at_once", [1, 2])
def test_gloo_on_one_host_gives_back_what_was_measured(at_once: int, computing: int, profile: Profile) -> None:
    """Alone, two at once, and beside as many computations as there are cores, or more of them."""
    if at_once == 2 and computing:
        pytest.skip("two at once beside computations were not measured")
    table = profile.collectives["gloo"]["all_reduce"]
    row, column = table.ranks.index(4), table.sizes_bytes.index(2**20)
    shared = table.shared_sizes_bytes.index(2**20)
    alone_s, paired_s, crowded_s = (
        table.elapsed_s[row][column],
        table.paired_s[row][shared],
        table.crowded_s[row][shared],
    )
    found = Gloo(profile).on_host(Request("all_reduce", 4, 2**20, per_host=4))
    assert found is not None
    env = simpy.Environment()
    fluid = Fluid(env, [float(profile.machine.cores)])
    ends_s: list[float] = []
    for _ in range(computing):
        fluid.start(1e3 * crowded_s, on(0), lambda: None, cap=1.0)
    for _ in range(at_once):
        loads = [Load(0, found.cores, found.cores)]
        fluid.start(found.elapsed_s, loads, lambda: ends_s.append(env.now), cap=1.0, crowded_rate=found.crowded_rate)
    env.run()
    expected_s = max(crowded_s, alone_s) if computing else [alone_s, paired_s][at_once - 1]
    assert ends_s == pytest.approx([expected_s] * at_once, rel=1e-9)


def test_computations_have_their_cores_back_when_a_collective_has_ended() -> None:
    """One core: two computations, and beside them a collective for a while; when one has ended, the other is alone."""
    env = simpy.Environment()
    fluid = Fluid(env, [1.0])
    ends: dict[str, float] = {}
    for name, work in (("a", 1.0), ("b", 3.0)):
        fluid.start(work, on(0), lambda name=name: ends.setdefault(name, env.now), cap=1.0)  # type: ignore[misc]
    fluid.start(0.1, on(0, 0.5), lambda: ends.setdefault("collective", env.now), cap=1.0, crowded_rate=0.2)
    env.run()
    assert ends["collective"] == pytest.approx(0.5)
    both_s = 0.5 + 2 * (1.0 - 0.5 * 0.45)
    assert ends["a"] == pytest.approx(both_s)
    assert ends["b"] == pytest.approx(both_s + 2.0)


def test_collectives_alone_do_not_take_more_cores_than_there_are() -> None:
    env = simpy.Environment()
    fluid = Fluid(env, [2.0])
    ends: list[float] = []
    for _ in range(2):
        fluid.start(1000.0, on(0), lambda: None, cap=1.0)
        fluid.start(0.9, on(0, 2.0), lambda: ends.append(env.now), cap=1.0, crowded_rate=0.9)
    env.run(until=100)
    assert ends == pytest.approx([1.8, 1.8])


def test_a_resource_without_capacity_holds_its_users_until_it_has_some() -> None:
    env = simpy.Environment()
    fluid = Fluid(env, [1.0])
    ends: list[float] = []
    fluid.start(2.0, on(0), lambda: ends.append(env.now))

    def fail_and_mend():  # type: ignore[no-untyped-def]
        yield env.timeout(1.0)
        fluid.set_capacity(0, 0.0)
        yield env.timeout(5.0)
        fluid.set_capacity(0, 0.5)

    env.process(fail_and_mend())
    env.run()
    assert ends == [8.0]


def test_carried_and_queueing_of_two_that_share() -> None:
    """Two transfers of 3 and 1 share a resource of 1 for 2 s: one of them waits all that time."""
    env = simpy.Environment()
    fluid = Fluid(env, [1.0])
    for work in (3.0, 1.0):
        fluid.start(work, on(0), lambda: None)
    env.run()
    assert fluid.carried[0] == 4.0
    assert fluid.queueing_s[0] == pytest.approx(2.0)
