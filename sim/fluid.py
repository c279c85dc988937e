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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import simpy

from twinstep.sim.max_min import Resource, Weights, max_min_rates

_ROUNDING = 1e-9
"""The part of a capacity that is lost to rounding, and never makes a resource contended."""
_LAST = 9
"""The priority of what happens at the end of an instant; SimPy's own are 0 and 1."""


class Load(NamedTuple):
    """What an activity needs of a resource to progress at rate 1."""

    resource: int
    weight: float
    """That of all the activities it stands for."""
    own: float
    """That of the activity itself, which bounds its rate when it is alone."""


@dataclass(slots=True, eq=False)
class Activity:
    """Something under way, which may stand for several of its kind."""

    loads: Sequence[Load]
    work: float
    on_done: Callable[[], object]
    cap: float
    """The largest rate."""
    crowded_rate: float | None
    """The rate while activities that never sleep fill one of its resources; None for one that never sleeps."""
    alone_rate: float = 0.0
    """The rate that the resources allow when nothing else uses them."""
    rate: float = 0.0
    remaining: float = field(init=False)
    updated_s: float = 0.0
    version: int = 0
    """Counts changes of rate; a timer that was set for an earlier one is void."""

    weights: Weights = field(init=False)
    """What it needs of each resource, with all that it stands for."""

    def __post_init__(self) -> None:
        self.remaining = self.work
        self.weights = [(resource, weight) for resource, weight, _ in self.loads]

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

    def __init__(self, env: simpy.Environment, capacities: Sequence[float]) -> None:
        self._env = env
        self._capacities = list(capacities)
        self._users: dict[int, dict[Activity, float]] = defaultdict(dict)
        self._demand: dict[int, float] = defaultdict(float)
        self._sleepless: dict[int, float] = defaultdict(float)
        self._contended: set[int] = set()
        self._dirty: dict[int, float] = {}
        """Resources on which something has changed in this instant, with the largest rate of what has left them."""
        self._settling = False
        self._excess_since_s: dict[int, float] = defaultdict(float)
        self.rate_changes = 0
        """How many times an activity was given a rate."""
        self.carried: dict[int, float] = defaultdict(float)
        """Work times weight of what has ended: for links, bytes."""
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
        activity = Activity(loads, work, on_done, cap, crowded_rate, updated_s=self._env.now)
        self._join(activity)
        if self._contended.isdisjoint(load.resource for load in loads):
            self._give(activity, activity.alone_rate)
        return activity

    def cancel(self, activity: Activity) -> float:
        """End an activity before its work is done; give the work that remains."""
        self._leave(activity)
        activity.set_rate(0.0, self._env.now)
        return activity.remaining

    def set_capacity(self, resource: int, capacity: float) -> None:
        """Change a resource from now on."""
        users = list(self._users[resource])
        for activity in users:
            self._leave(activity)
        self._capacities[resource] = capacity
        for activity in users:
            self._join(activity)
        self._mark(resource, 0.0)

    def users(self, resource: int) -> list[Activity]:
        """Give what uses a resource now."""
        return list(self._users[resource])

    def progress(self, activity: Activity) -> float:
        """Give the work of an activity that is done by now."""
        return activity.work - activity.remaining + (self._env.now - activity.updated_s) * activity.rate

    def _join(self, activity: Activity) -> None:
        limits = [self._capacities[load.resource] / load.own for load in activity.loads]
        activity.alone_rate = min(activity.cap, *limits) if limits else activity.cap
        for resource, weight in activity.weights:
            self._users[resource][activity] = weight
            self._add_demand(resource, weight * activity.alone_rate, activity)

    def _leave(self, activity: Activity) -> None:
        for resource, weight in activity.weights:
            del self._users[resource][activity]
            self._add_demand(resource, -weight * activity.alone_rate, activity)

    def _add_demand(self, resource: int, demand: float, activity: Activity) -> None:
        """Note what is wanted of a resource; where it is contended, before or now, rates must be computed."""
        capacity = self._capacities[resource]
        was_contended = resource in self._contended
        if was_contended and capacity:
            excess = self._demand[resource] / capacity - 1
            self.queueing_s[resource] += excess * (self._env.now - self._excess_since_s[resource])
        self._excess_since_s[resource] = self._env.now
        self._demand[resource] += demand
        if activity.crowded_rate is None:
            self._sleepless[resource] += demand
        if self._demand[resource] > capacity * (1 + _ROUNDING):
            self._contended.add(resource)
            self._mark(resource, activity.rate)
        elif was_contended:
            self._contended.remove(resource)
            self._mark(resource, activity.rate)
        if not self._users[resource]:
            self._demand[resource] = self._sleepless[resource] = 0.0

    def _mark(self, resource: int, rate: float) -> None:
        """Note a change of a resource by something that had some rate until now."""
        self._dirty[resource] = max(rate, self._dirty.get(resource, 0.0))
        if not self._settling:
            self._settling = True
            _EndOfInstant(self._env, self._settle)

    def _settle(self, _: object) -> None:
        """Compute the rates of all that is connected to what has changed in this instant."""
        self._settling = False
        found, contended = self._connected(min(map(self._unchanged_below, self._dirty)))
        self._dirty = {}
        waking = {a: a.crowded_rate for a in found if a.crowded_rate is not None and self._is_crowded(a)}
        for part in (waking, {a: a.alone_rate for a in found if a not in waking}) if waking else (found,):
            resources = {resource: self._left(resource, found, part) for resource in contended}
            for activity, rate in max_min_rates(part, resources, self._users).items():
                if rate != activity.rate or not activity.version:
                    self._give(activity, rate)
                del found[activity]

    def _left(self, resource: int, found: Mapping[Activity, float], rising: Mapping[Activity, float]) -> Resource:
        """Give what those leave of a resource whose rates are known; equal rates in one product, as filling does."""
        weight, known = 0.0, defaultdict[float, float](float)
        for activity, needed in self._users[resource].items():
            if activity in rising:
                weight += needed
            elif activity not in found:
                known[activity.rate] += needed
        spare = self._capacities[resource]
        for rate in sorted(known):
            spare -= rate * known[rate]
        return Resource(max(0.0, spare), weight)

    def _unchanged_below(self, resource: int) -> float:
        """Give a level up to which filling goes as it did before a resource changed.

        If it was full, then at the largest rate on it. Now it is full where its users would fill it that stop at
        their old rates, or rise on if they are new.
        """
        users = self._users[resource]
        if any(activity.crowded_rate is not None for activity in users):
            return 0.0
        spare, weight = self._capacities[resource], sum(users.values())
        level = max(self._dirty[resource], max((activity.rate for activity in users), default=0.0))
        for activity in sorted((a for a in users if a.version), key=_rate_of):
            if activity.rate * weight >= spare:
                break
            spare -= activity.rate * users[activity]
            weight -= users[activity]
        return min(level, spare / weight if weight else level) * (1 - _ROUNDING)

    def _connected(self, floor: float) -> tuple[dict[Activity, float], dict[int, None]]:
        """Find the activities that the changes may concern, with their caps, and the contended resources they use.

        Those below the floor keep their rates.
        """
        contended: dict[int, None] = {}
        found: dict[Activity, float] = {}
        waiting = list(self._dirty)
        seen = set(waiting)
        while waiting:
            resource = waiting.pop()
            if resource in self._contended:
                contended[resource] = None
            for activity in self._users[resource]:
                if activity not in found and (activity.rate >= floor or not activity.version):
                    found[activity] = activity.alone_rate
                    for other, _ in activity.weights:
                        if other not in seen and other in self._contended:
                            seen.add(other)
                            waiting.append(other)
        return found, contended

    def _is_crowded(self, activity: Activity) -> bool:
        resources = [load.resource for load in activity.loads]
        return any(self._sleepless[r] >= self._capacities[r] * (1 - _ROUNDING) for r in resources)

    def _give(self, activity: Activity, rate: float) -> None:
        """Let an activity progress at a rate from now on, and set a timer for its end."""
        self.rate_changes += 1
        activity.set_rate(rate, self._env.now)
        if rate > 0:
            version = activity.version
            timer = self._env.timeout(activity.remaining / rate)
            timer.callbacks.append(lambda _: self._finish(activity, version))

    def _finish(self, activity: Activity, version: int) -> None:
        if activity.version != version:
            return
        activity.version += 1
        self._leave(activity)
        for resource, weight in activity.weights:
            self.carried[resource] += weight * activity.work
        activity.on_done()


def _rate_of(activity: Activity) -> float:
    return activity.rate
