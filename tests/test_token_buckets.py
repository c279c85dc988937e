"""Token buckets: what a link did not carry during a pause passes at once, up to the bucket's depth, and no more."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import simpy

from twinstep.effects import Collective
from twinstep.sim.communication import Communicator
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import Meeting
from twinstep.sim.running import Part
from twinstep.sim.token_buckets import Bucket, TokenBuckets

RATE = 1000.0
"""Bytes a second of a link."""
DEPTH = 300.0
"""Bytes of its bucket."""
PAUSES_S = (0.0, 0.05, 0.1, 0.3, 0.31, 5.0)


def on(*resources: int, weight: float = 1.0) -> list[Load]:
    return [Load(resource, weight, weight) for resource in resources]


class TestAlone:
    def test_a_bucket_is_full_at_the_beginning_and_gives_no_more_than_is_asked_for(self) -> None:
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE])
        assert buckets.take(on(0), 100.0, 0.0) == 100.0
        assert buckets.take(on(0), 1e9, 0.0) == DEPTH - 100.0
        assert buckets.take(on(0), 1e9, 0.0) == 0.0

    @pytest.mark.parametrize("used", [0.0, 0.25, 0.5, 1.0, 1.1])
    @pytest.mark.parametrize("pause_s", PAUSES_S)
    def test_a_pause_refills_what_the_link_could_have_carried_and_did_not(self, pause_s: float, used: float) -> None:
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE])
        buckets.take(on(0), math.inf, 1.0)
        buckets.use(on(0), used * RATE, 1.0)
        refilled = min(DEPTH, pause_s * RATE * max(0.0, 1 - used))
        assert buckets.take(on(0), math.inf, 1.0 + pause_s) == pytest.approx(refilled, rel=1e-12)

    def test_changes_of_use_count_from_when_they_happen(self) -> None:
        """Empty at 0, unused until 0.1, half used until 0.2, three quarters used until 0.3: 100, 50 and 25 bytes."""
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE])
        buckets.take(on(0), math.inf, 0.0)
        buckets.use(on(0), RATE / 2, 0.1)
        buckets.use(on(0, weight=2.0), RATE / 8, 0.2)
        assert buckets.take(on(0), math.inf, 0.3) == pytest.approx(175.0, rel=1e-12)

    def test_a_full_bucket_does_not_gather_for_later(self) -> None:
        """It was idle for long before its link was used as much as it can be."""
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE])
        buckets.use(on(0), RATE, 100.0)
        assert buckets.take(on(0), math.inf, 200.0) == DEPTH
        assert buckets.take(on(0), math.inf, 300.0) == 0.0

    def test_rates_that_came_and_went_leave_a_link_idle(self) -> None:
        """0.1 + 0.2 - 0.3 is not 0 in binary; the link is idle all the same, so the overdraft counts."""
        buckets = TokenBuckets({0: Bucket(DEPTH, overdraft=50.0)}, [RATE])
        for share in (0.1, 0.2, -0.3):
            buckets.use(on(0), share, 0.0)
        assert buckets.take(on(0), math.inf, 0.0) == DEPTH + 50.0
        assert buckets.overdrawn_s(on(0), 0.0) == pytest.approx(50.0 / RATE)

    def test_what_weighs_more_takes_as_much_more(self) -> None:
        """Three flows cross a link: each has a third of the bucket."""
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE])
        assert buckets.take(on(0, weight=3.0), 40.0, 0.0) == 40.0
        assert buckets.take(on(0, weight=3.0), math.inf, 0.0) == (DEPTH - 120.0) / 3
        assert buckets.take(on(0), math.inf, 0.0) == 0.0

    @pytest.mark.parametrize(("depths", "first", "second"), [((300.0, 50.0), 50.0, 250.0), ((30.0, 90.0), 30.0, 0.0)])
    def test_of_two_links_the_emptier_limits_and_both_are_drained(
        self, depths: tuple[float, float], first: float, second: float
    ) -> None:
        buckets = TokenBuckets({i: Bucket(depth) for i, depth in enumerate(depths)}, [RATE, RATE])
        assert buckets.take(on(0, 1), math.inf, 0.0) == first
        assert buckets.take(on(0), math.inf, 0.0) == second
        assert buckets.take(on(1), math.inf, 0.0) == max(0.0, depths[1] - first)

    def test_the_emptier_is_that_which_lets_the_least_through(self) -> None:
        """The bucket of 300 bytes is crossed by six flows, that of 100 by one: 50 bytes each."""
        buckets = TokenBuckets({0: Bucket(300.0), 1: Bucket(100.0)}, [RATE, RATE])
        assert buckets.take([*on(0, weight=6.0), *on(1)], math.inf, 0.0) == 50.0
        assert buckets.take(on(1), math.inf, 0.0) == 50.0

    def test_what_crosses_no_bucket_does_not_pass_at_once(self) -> None:
        buckets = TokenBuckets({0: Bucket(DEPTH)}, [RATE, RATE])
        assert 0 in buckets
        assert 1 not in buckets
        assert buckets.take(on(1), 100.0, 0.0) == 0.0
        assert buckets.take([], 100.0, 0.0) == 0.0
        assert buckets.take(on(0, 1), math.inf, 0.0) == DEPTH


class Sender:
    """One channel over some resources; it notes when each of its messages is complete."""

    def __init__(self, fluid: Fluid, env: simpy.Environment, loads: Sequence[Load]) -> None:
        self.ends_s: list[float] = []
        self._env = env
        self._loads = loads
        self._channel = Communicator(env, fluid, self._price, 1, [(0, "")], self._note)

    def _price(self, effect: object) -> list[Part]:
        assert isinstance(effect, Collective)
        return [Part(0.0, float(effect.size_bytes), self._loads, math.inf, None)]

    def _note(self, _: Meeting) -> None:
        self.ends_s.append(self._env.now)

    def send(self, size_bytes: int, at_s: float = 0.0) -> None:
        effect = Collective("broadcast", "all", size_bytes, "lane")

        def issue(_: object) -> None:
            self._channel.issue(0, 0, effect, at_s)

        self._env.timeout(at_s - self._env.now).callbacks.append(issue)


class Watched(Fluid):
    """A fluid that counts what is under way, too."""

    def carried_until(self, now_s: float) -> list[float]:
        carried = [self.carried[resource] for resource in range(2)]
        for activity in self._shares.rates:
            done = activity.work - activity.remaining + (now_s - activity.updated_s) * activity.rate
            for resource, weight in activity.weights:
                carried[resource] += weight * done
        return carried


def network(*capacities: float, **depths: float) -> tuple[simpy.Environment, Watched]:
    """Make links with buckets of `depths`, by names such as link0; without one they have none."""
    env = simpy.Environment()
    buckets = {int(name.removeprefix("link")): Bucket(depth) for name, depth in depths.items()}
    return env, Watched(env, capacities, buckets)


class TestInTheFluid:
    @pytest.mark.parametrize("size_bytes", [100, 300, 301, 1000, 10**6])
    def test_after_a_long_pause_the_burst_takes_no_time(self, size_bytes: int) -> None:
        """S bytes over a link of B bytes a second with a bucket of b: (S - b) / B."""
        env, fluid = network(RATE, link0=DEPTH)
        sender = Sender(fluid, env, on(0))
        sender.send(size_bytes, 10.0)
        env.run()
        assert sender.ends_s == pytest.approx([10.0 + max(0.0, size_bytes - DEPTH) / RATE], rel=1e-12)
        assert fluid.carried[0] == pytest.approx(size_bytes)

    @pytest.mark.parametrize("pause_s", PAUSES_S)
    def test_a_pause_gives_the_next_message_what_it_refills(self, pause_s: float) -> None:
        env, fluid = network(RATE, link0=DEPTH)
        sender = Sender(fluid, env, on(0))
        first_s = (1300 - DEPTH) / RATE
        sender.send(1300)
        sender.send(1000, first_s + pause_s)
        env.run()
        burst = min(DEPTH, pause_s * RATE)
        assert sender.ends_s == pytest.approx([first_s, first_s + pause_s + (1000 - burst) / RATE], rel=1e-12)
        assert fluid.carried[0] == pytest.approx(2300)

    @pytest.mark.parametrize("pause_s", PAUSES_S)
    def test_a_half_used_link_refills_at_half_the_rate(self, pause_s: float) -> None:
        """Something else has half of the link all the time, so the message has the other half, and its tokens."""
        env, fluid = network(RATE, link0=DEPTH)
        sender = Sender(fluid, env, on(0))
        fluid.start(1e6, on(0), lambda: None, cap=RATE / 2)
        sender.send(int(DEPTH))
        sender.send(1000, pause_s)
        env.run(until=100)
        burst = min(DEPTH, pause_s * RATE / 2)
        assert sender.ends_s == pytest.approx([0.0, pause_s + (1000 - burst) / (RATE / 2)], rel=1e-12)

    def test_a_link_that_is_always_full_never_lets_anything_through_at_once(self) -> None:
        env, fluid = network(RATE, link0=DEPTH)
        one, other = (Sender(fluid, env, on(0)) for _ in range(2))
        one.send(10**5)
        other.send(1000, 5.0)
        env.run(until=20)
        assert other.ends_s == pytest.approx([5.0 + 1000 / (RATE / 2)])

    @pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.05, 0.2])
    def test_the_last_piece_overdraws_the_bucket_and_what_comes_next_waits(self, pause_s: float) -> None:
        env = simpy.Environment()
        fluid = Fluid(env, [RATE], {0: Bucket(DEPTH, 50.0)})
        sender = Sender(fluid, env, on(0))
        first_s = (1000 - DEPTH - 50) / RATE
        sender.send(1000)
        sender.send(10, first_s + pause_s)
        env.run()
        assert sender.ends_s == pytest.approx([first_s, first_s + max(pause_s, 0.05)])
        assert fluid.carried[0] == pytest.approx(1010)

    def test_what_follows_at_once_loses_nothing_by_an_overdraft(self) -> None:
        env = simpy.Environment()
        fluid = Fluid(env, [RATE], {0: Bucket(DEPTH, 50.0)})
        sender = Sender(fluid, env, on(0))
        for _ in range(3):
            sender.send(1000)
        env.run()
        assert sender.ends_s == pytest.approx([(number * 1000 - DEPTH - 50) / RATE for number in (1, 2, 3)])

    def test_of_two_that_start_together_the_first_takes_the_bucket(self) -> None:
        env, fluid = network(RATE, link0=DEPTH)
        one, other = (Sender(fluid, env, on(0)) for _ in range(2))
        for sender in (one, other):
            sender.send(800)
        env.run()
        assert one.ends_s == pytest.approx([500 / (RATE / 2)])
        assert other.ends_s == pytest.approx([(1600 - DEPTH) / RATE])

    def test_of_two_links_the_emptier_bucket_and_the_slower_link_limit(self) -> None:
        """The first link is the slower one, the second has the smaller bucket; what is left stays in the other."""
        env, fluid = network(RATE, 4 * RATE, link0=DEPTH, link1=100.0)
        both, first = Sender(fluid, env, on(0, 1)), Sender(fluid, env, on(0))
        both.send(100)
        first.send(150)
        env.run(until=1e-9)
        assert (both.ends_s, first.ends_s) == ([0.0], [0.0])
        both.send(1100, 10.0)
        env.run()
        assert both.ends_s[1:] == pytest.approx([10.0 + 1000 / RATE])
        assert fluid.carried == pytest.approx({0: 1350, 1: 1200})

    def test_what_passes_at_once_takes_the_time_of_everything_else(self) -> None:
        """A machine of half the link's rate: it takes its time for each byte, and links let it through."""
        env, fluid = network(RATE, RATE / 2, link0=DEPTH)
        sender = Sender(fluid, env, on(0, 1))
        sender.send(1000)
        env.run()
        assert sender.ends_s == pytest.approx([1000 / (RATE / 2)])
        assert fluid.carried == pytest.approx({0: 1000, 1: 1000})

    def test_a_faster_machine_is_met_by_the_burst_and_the_link_by_the_rest(self) -> None:
        env, fluid = network(RATE, 5 * RATE, link0=DEPTH)
        sender = Sender(fluid, env, on(0, 1))
        sender.send(1000)
        env.run()
        assert sender.ends_s == pytest.approx([DEPTH / (5 * RATE) + (1000 - DEPTH) / RATE])
        assert fluid.carried == pytest.approx({0: 1000, 1: 1000})

    def test_without_buckets_nothing_passes_at_once(self) -> None:
        env, fluid = network(RATE)
        assert fluid.take_burst(100.0, on(0)) == (0.0, ())
        sender = Sender(fluid, env, on(0))
        sender.send(1000, 5.0)
        env.run()
        assert sender.ends_s == [6.0]

    @pytest.mark.parametrize("seed", range(10))
    def test_never_more_passes_than_depth_and_rate_allow(self, seed: int) -> None:
        """In any time t no more than b + B t, and in some time nearly that; all that is sent is carried, once."""
        generator = random.Random(seed)
        depths, rates = (DEPTH, 150.0), (RATE, 2 * RATE)
        env, fluid = network(*rates, link0=depths[0], link1=depths[1])
        sent = [0.0, 0.0]
        for _ in range(40):
            loads = generator.choice([on(0), on(1), on(0, 1), [*on(0), *on(1, weight=2.0)]])
            size_bytes = generator.randint(1, 900)
            Sender(fluid, env, loads).send(size_bytes, generator.uniform(0, 20))
            for resource, weight, _ in loads:
                sent[resource] += weight * size_bytes
        most, emptiest = [0.0, 0.0], [0.0, 0.0]
        for instant in range(3000):
            env.run(until=(instant + 1) / 100)
            for resource, carried in enumerate(fluid.carried_until(env.now)):
                ahead = carried - rates[resource] * env.now
                emptiest[resource] = min(emptiest[resource], ahead)
                most[resource] = max(most[resource], ahead - emptiest[resource])
        assert fluid.carried == pytest.approx(dict(enumerate(sent)))
        for reached, depth in zip(most, depths, strict=True):
            assert 0.5 * depth < reached <= depth + 1e-6

    def test_a_link_that_changes_refills_at_its_new_rate(self) -> None:
        """Emptied when it slows down to a tenth; a tenth of a second later there are 10 bytes, not 100."""
        env, fluid = network(RATE, link0=DEPTH)
        sender = Sender(fluid, env, on(0))
        sender.send(int(DEPTH))
        env.run(until=1e-9)
        fluid.set_capacity(0, RATE / 10)
        env.run(until=0.1)
        assert fluid.take_burst(math.inf, on(0))[0] == pytest.approx(10.0, rel=1e-6)
