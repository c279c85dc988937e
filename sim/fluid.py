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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import simpy

from twinstep.sim.max_min import User, Weights, max_min_rates

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

    def __post_init__(self) -> None:
        self.remaining = self.work

    def weights(self) -> Weights:
        """Give what it needs, with all that it stands for."""
        return [(resource, weight) for resource, weight, _ in self.loads]

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
        self._dirty: dict[int, None] = {}
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
        if not any(self._is_contended(load.resource) for load in loads):
            self._give(activity, activity.alone_rate)
        return activity

    def cancel(self, activity: Activity) -> float:
        """End an activity before its work is done; give the work that remains."""
        activity.set_rate(0.0, self._env.now)
        self._leave(activity)
        return activity.remaining

    def set_capacity(self, resource: int, capacity: float) -> None:
        """Change a resource from now on."""
        users = list(self._users[resource])
        for activity in users:
            self._leave(activity)
        self._capacities[resource] = capacity
        for activity in users:
            self._join(activity)
        self._mark(resource)

    def users(self, resource: int) -> list[Activity]:
        """Give what uses a resource now."""
        return list(self._users[resource])

    def progress(self, activity: Activity) -> float:
        """Give the work of an activity that is done by now."""
        return activity.work - activity.remaining + (self._env.now - activity.updated_s) * activity.rate

    def _join(self, activity: Activity) -> None:
        limits = [self._capacities[load.resource] / load.own for load in activity.loads]
        activity.alone_rate = min(activity.cap, *limits) if limits else activity.cap
        for resource, weight, _ in activity.loads:
            self._users[resource][activity] = weight
            self._add_demand(resource, weight * activity.alone_rate, activity)

    def _leave(self, activity: Activity) -> None:
        for resource, weight, _ in activity.loads:
            del self._users[resource][activity]
            self._add_demand(resource, -weight * activity.alone_rate, activity)

    def _add_demand(self, resource: int, demand: float, activity: Activity) -> None:
        """Note what is wanted of a resource; where it is contended, before or now, rates must be computed."""
        contended = self._is_contended(resource)
        if contended:
            excess = self._demand[resource] / self._capacities[resource] - 1 if self._capacities[resource] else 0.0
            self.queueing_s[resource] += excess * (self._env.now - self._excess_since_s[resource])
        self._excess_since_s[resource] = self._env.now
        self._demand[resource] += demand
        if activity.crowded_rate is None:
            self._sleepless[resource] += demand
        if contended or self._is_contended(resource):
            self._mark(resource)
        if not self._users[resource]:
            self._demand[resource] = self._sleepless[resource] = 0.0

    def _is_contended(self, resource: int) -> bool:
        return self._demand[resource] > self._capacities[resource] * (1 + _ROUNDING)

    def _mark(self, resource: int) -> None:
        self._dirty[resource] = None
        if not self._settling:
            self._settling = True
            _EndOfInstant(self._env, self._settle)

    def _settle(self, _: object) -> None:
        """Compute the rates of all that is connected to what has changed in this instant."""
        self._settling = False
        activities, resources = self._connected(self._dirty)
        self._dirty = {}
        spare = {resource: self._capacities[resource] for resource in resources}
        waking = [a for a in activities if a.crowded_rate is not None and self._is_crowded(a)]
        if waking:
            rates = max_min_rates([User(a.weights(), a.crowded_rate or 0.0) for a in waking], spare)
            for activity, rate in zip(waking, rates, strict=True):
                self._give(activity, rate)
                for resource, weight in activity.weights():
                    if resource in spare:
                        spare[resource] = max(0.0, spare[resource] - rate * weight)
            activities = [a for a in activities if a not in set(waking)]
        rates = max_min_rates([User(a.weights(), a.alone_rate) for a in activities], spare)
        for activity, rate in zip(activities, rates, strict=True):
            self._give(activity, rate)

    def _connected(self, resources: Iterable[int]) -> tuple[list[Activity], dict[int, None]]:
        """Find the activities that a change of some resources may concern, and the contended resources they use."""
        contended: dict[int, None] = {}
        found: dict[Activity, None] = {}
        waiting = list(resources)
        seen = set(waiting)
        while waiting:
            resource = waiting.pop()
            if self._is_contended(resource):
                contended[resource] = None
            for activity in self._users[resource]:
                if activity not in found:
                    found[activity] = None
                    for other, _, _ in activity.loads:
                        if other not in seen and self._is_contended(other):
                            seen.add(other)
                            waiting.append(other)
        return list(found), contended

    def _is_crowded(self, activity: Activity) -> bool:
        resources = [load.resource for load in activity.loads]
        return any(self._sleepless[r] >= self._capacities[r] * (1 - _ROUNDING) for r in resources)

    def _give(self, activity: Activity, rate: float) -> None:
        """Let an activity progress at a rate from now on, and set a timer for its end."""
        if rate == activity.rate and activity.version:
            return
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
        for resource, weight, _ in activity.loads:
            self.carried[resource] += weight * activity.work
        activity.on_done()
