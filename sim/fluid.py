"""Fluid sharing: activities that use resources (cores, links) progress at max-min fair rates.

An activity has an amount of work and a weight on each resource that it uses: how much of the resource's capacity it
needs to progress at rate 1. Of a phase of a collective the work is the bytes of one flow and the weight of a link the
number of flows that cross it, so the rate is that of one flow in bytes a second; of a computation the work is seconds
and its weight on its host one core. An event is a change of rates, never a part of an activity.

An activity that is alone progresses at the largest rate that its resources and its cap allow. A resource is contended
where its users, each at that rate, would need more than it has. Only contended resources connect activities: when
something starts or ends on one, the rates of what is connected to it are computed anew, once, at the end of the
instant.

With capacity C and users i of weights w_i that nothing else limits, each has the rate C / sum(w_i).

*Crowding.* An activity that sleeps and wakes again and again, as a collective's threads do, gets neither more nor less
of cores that computations keep busy than was measured: its `crowded_rate` comes first, and computations share the rest.

When it is wrong: an operating system shares cores in turns of milliseconds. Work that is shorter than a turn finishes
in some order rather than together; the moment when all of it is done is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import simpy

from twinstep.sim.cores import core_rates
from twinstep.sim.max_min import ROUNDING, MaxMin, Weights
from twinstep.sim.token_buckets import Bucket, TokenBuckets

_LAST = 9
"""The priority of what happens at the end of an instant; SimPy's own are 0 and 1."""


class Load(NamedTuple):
    """What an activity needs of a resource to progress at rate 1."""

    resource: int
    weight: float
    """That of all the activities it stands for."""
    own: float
    """That of the activity itself, which bounds its rate when it is alone."""


class Activity:
    """Something under way, which may stand for several of its kind."""

    __slots__ = (
        *("cap", "crowded_rate", "loads", "most", "on_done", "rate", "remaining", "updated_s", "version", "weights"),
        "work",
    )

    def __init__(
        self,
        loads: Sequence[Load],
        work: float,
        on_done: Callable[[], object],
        most: float,
        crowded_rate: float | None,
        begin_s: float,
    ) -> None:
        self.loads = loads
        self.work = self.remaining = work
        self.on_done = on_done
        self.most = most
        """The largest rate, whatever its resources allow."""
        self.crowded_rate = crowded_rate
        """The rate while computations fill the cores of its host, which it uses alone; None for what never sleeps."""
        self.cap = 0.0
        """The rate when nothing else is active."""
        self.rate = 0.0
        self.updated_s = begin_s
        self.version = 0
        """Counts changes of rate; a timer that was set for an earlier one is void."""
        self.weights: Weights = [(resource, weight) for resource, weight, _ in loads]

    def set_rate(self, rate: float, now_s: float) -> None:
        """Account for what was done since the last change."""
        self.remaining = max(0.0, self.remaining - (now_s - self.updated_s) * self.rate)
        self.updated_s = now_s
        self.rate = rate
        self.version += 1


class _EndOfInstant(simpy.Event):
    """Happens when nothing else is left to happen at this time."""

    def __init__(self, env: simpy.Environment, callback: Callable[[Any], None]) -> None:
        super().__init__(env)
        self.callbacks.append(callback)
        self._ok = True
        self._value = None
        env.schedule(self, priority=_LAST)  # type: ignore[arg-type]


class Fluid:
    """All resources, by index, and the activities on them."""

    def __init__(
        self, env: simpy.Environment, capacities: Sequence[float], buckets: Mapping[int, Bucket] | None = None
    ) -> None:
        """Share `capacities`; resources with `buckets` let their contents through at once after a pause."""
        self._env = env
        self._tokens = TokenBuckets(buckets, capacities) if buckets else None
        self._shares: MaxMin[Activity] = MaxMin(dict(enumerate(capacities)))
        self._demand = [0.0] * len(capacities)
        self._contended: set[int] = set()
        self._excess_since_s: dict[int, float] = {}
        self._sleepers: dict[int, int] = defaultdict(int)
        """How many activities on a host sleep and wake."""
        self._hosts: dict[int, None] = {}
        """Hosts with sleepers on which something has changed in this instant."""
        self._settling = False
        self._offered: dict[int, float] = defaultdict(float)
        self._changed_s: dict[int, float] = defaultdict(float)
        """When a capacity was changed last, and what was offered until then."""
        self.rate_changes = 0
        """How many times an activity was given a rate."""
        self.carried: dict[int, float] = defaultdict(float)
        """Work that is done, times its weight: for links, bytes; of what is still under way, after `stop` alone."""
        self.queueing_s: dict[int, float] = defaultdict(float)
        """Integral over time of what users would need beyond the capacity, in capacities: the queue, in transfers."""

    def start(
        self,
        work: float,
        loads: Sequence[Load],
        on_done: Callable[[], object],
        *,
        cap: float = float("inf"),
        crowded_rate: float | None = None,
    ) -> Activity:
        """Begin an activity; `on_done` is called when its work is done, in the order of the starts among equals."""
        activity = Activity(loads, work, on_done, cap, crowded_rate, self._env.now)
        self._want(activity)
        if not self._contended or self._contended.isdisjoint([resource for resource, _ in activity.weights]):
            self._shares.place(activity)
            self._give(activity, activity.cap)
        else:
            self._shares.add(activity)
            self._settle_later(activity)
        return activity

    @property
    def has_buckets(self) -> bool:
        """Tell whether anything lets its contents through at once."""
        return self._tokens is not None

    def take_burst(self, work: float, loads: Sequence[Load]) -> tuple[float, Sequence[Load]]:
        """Give how much of some work its links let through at once, and what else that needs. It counts as carried."""
        if self._tokens is None:
            return 0.0, ()
        taken = self._tokens.take(loads, work, self._env.now)
        for resource, weight, _ in loads:
            if resource in self._tokens:
                self.carried[resource] += weight * taken
        return taken, [load for load in loads if load.resource not in self._tokens]

    def overdrawn_s(self, loads: Sequence[Load]) -> float:
        """Give how long links that nothing uses now let nothing through."""
        return self._tokens.overdrawn_s(loads, self._env.now) if self._tokens else 0.0

    def cancel(self, activity: Activity) -> float:
        """End an activity before its work is done; give the work that remains."""
        self._leave(activity)
        activity.set_rate(0.0, self._env.now)
        self._carry(activity)
        return activity.remaining

    def stop(self) -> None:
        """End everything, and count what is done of it."""
        for activity in list(self._shares.rates):
            self.cancel(activity)

    def set_capacity(self, resource: int, capacity: float) -> None:
        """Change a resource from now on."""
        users = list(self._shares.users[resource])
        self._offered[resource] = self.offered(resource)
        self._changed_s[resource] = self._env.now
        for activity in users:
            self._add_demand(activity, -1)
        self._shares.set_capacity(resource, capacity)
        if self._tokens is not None:
            self._tokens.set_capacity(resource, capacity, self._env.now)
        for activity in users:
            self._want(activity)
        for activity in users[:1]:
            self._settle_later(activity)

    def offered(self, resource: int) -> float:
        """Give the integral of a resource's capacity over time: for links, the bytes it could have carried."""
        capacity, since_s = self._shares.capacities[resource], self._changed_s[resource]
        return self._offered[resource] + capacity * (self._env.now - since_s)

    def count(self, loads: Sequence[Load], work: float) -> None:
        """Count what is carried besides, without taking anything from others."""
        for resource, weight, _ in loads:
            self.carried[resource] += weight * work

    def alone_rate(self, loads: Sequence[Load]) -> float:
        """Give the rate that resources allow when nothing else is active; infinite without loads."""
        capacities, rate = self._shares.capacities, float("inf")
        for resource, _, own in loads:
            rate = min(rate, capacities[resource] / own)
        return rate

    def _want(self, activity: Activity) -> None:
        activity.cap = min(activity.most, self.alone_rate(activity.loads))
        self._add_demand(activity, 1)

    def _leave(self, activity: Activity) -> None:
        if self._tokens is not None:
            self._tokens.use(activity.loads, -activity.rate, self._env.now)
        contended, users = self._contended, self._shares.users
        full = [resource for resource, _ in activity.weights if resource in contended] if contended else []
        self._add_demand(activity, -1)
        self._shares.remove(activity, full)
        if full:
            self._settle_later(activity)
        for resource, _ in activity.weights:
            if not users[resource]:
                self._demand[resource] = 0.0

    def _add_demand(self, activity: Activity, sign: int) -> None:
        """Note what is wanted of resources, and which are contended by it: wanted by more than they can serve."""
        contended, demand, capacities = self._contended, self._demand, self._shares.capacities
        wanted = sign * activity.cap
        for resource, weight in activity.weights:
            is_contended = resource in contended
            if is_contended:
                self._count_queueing(resource)
            found = demand[resource] = demand[resource] + weight * wanted
            if found > capacities[resource] * (1 + ROUNDING):
                self._excess_since_s[resource] = self._env.now
                contended.add(resource)
            elif is_contended:
                contended.remove(resource)
        if activity.crowded_rate is not None:
            for resource, _ in activity.weights:
                self._sleepers[resource] += sign

    def _count_queueing(self, resource: int) -> None:
        """Count what users of a contended resource have wanted beyond its capacity since they last changed."""
        capacity = self._shares.capacities[resource]
        if capacity:
            excess = self._demand[resource] / capacity - 1
            self.queueing_s[resource] += excess * (self._env.now - self._excess_since_s[resource])

    def _settle_later(self, activity: Activity) -> None:
        """Compute rates at the end of this instant, after all that happens in it."""
        for resource, _ in activity.weights:
            if self._sleepers[resource] or activity.crowded_rate is not None:
                self._hosts[resource] = None
        if not self._settling:
            self._settling = True
            _EndOfInstant(self._env, self._settle)

    def _settle(self, _: object) -> None:
        """Give rates to all whose rates this instant has changed."""
        self._settling = False
        rates: dict[Activity, float] = dict(self._shares.update())
        for host in self._hosts:
            rates |= self._on_cores(host)
        self._hosts = {}
        for activity, rate in rates.items():
            if rate != activity.rate or not activity.version:
                self._give(activity, rate)

    def _on_cores(self, host: int) -> Mapping[Activity, float]:
        rates = core_rates(host, self._shares.users[host], self._shares.capacities[host])
        self._shares.override(host, rates)
        return rates

    def _give(self, activity: Activity, rate: float) -> None:
        """Let an activity progress at a rate from now on, and set a timer for its end."""
        self.rate_changes += 1
        now_s = self._env.now
        if self._tokens is not None:
            self._tokens.use(activity.loads, rate - activity.rate, now_s)
        activity.set_rate(rate, now_s)
        if rate > 0:
            timer = self._env.timeout(activity.remaining / rate)
            timer.callbacks.append(partial(self._finish, activity, activity.version))

    def _finish(self, activity: Activity, version: int, _: simpy.Event) -> None:
        if activity.version != version:
            return
        activity.version += 1
        self._leave(activity)
        activity.remaining = 0.0
        self._carry(activity)
        activity.on_done()

    def _carry(self, activity: Activity) -> None:
        done, carried = activity.work - activity.remaining, self.carried
        for resource, weight in activity.weights:
            carried[resource] += weight * done
