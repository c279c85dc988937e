"""Fluid sharing: activities that use resources (cores, links) progress at max-min fair rates.

An activity has an amount of work in seconds, the time it takes undisturbed, and a weight on each resource it uses: how
much of the resource it needs to progress at rate 1. Rates never exceed 1. Where a resource cannot serve all, the rates
of its users are equal, and what one of them cannot use for another reason is shared among the others (max-min by
progressive filling). An event is a change of rates, never a part of an activity.

With capacity C and users i of weights w_i that nothing else limits, each runs at rate min(1, C / sum(w_i)): two
computations on one core each take twice as long, and a collective that keeps 1.2 of 2 cores busy shares them with a
second one at rate 2 / 2.4.

An activity that sleeps and wakes again and again, as a collective's threads do, gets less than a fair share of cores
that computations keep busy: its rate is then at most its `crowded_rate`, which is measured.

When it is wrong: an operating system shares cores in turns of milliseconds. Work that is shorter than a turn finishes
in some order rather than together; the moment when all of it is done is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import simpy

_ROUNDING = 1e-12
"""The part of a capacity, or of rate 1, that is lost to rounding."""


@dataclass(slots=True, eq=False)
class Activity:
    """Something under way. Seconds of work that remain, and the rate at which they are done."""

    weights: Mapping[Hashable, float]
    remaining_s: float
    on_done: Callable[[], object]
    crowded_rate: float | None
    """The largest rate while activities that never sleep fill one of its resources; None for one that never sleeps."""
    rate: float = 1.0
    updated_s: float = 0.0
    version: int = 0
    """Counts changes of rate; a timer that was set for an earlier one is void."""


class Fluid:
    """All resources and the activities on them."""

    def __init__(self, env: simpy.Environment, capacities: Mapping[Hashable, float]) -> None:
        self._env = env
        self._capacities = capacities
        self._demand = dict.fromkeys(capacities, 0.0)
        self._sleepless_demand = dict.fromkeys(capacities, 0.0)
        self._saturated = False
        self._active: dict[Activity, None] = {}

    def start(
        self,
        work_s: float,
        weights: Mapping[Hashable, float],
        on_done: Callable[[], object],
        *,
        crowded_rate: float | None = None,
    ) -> None:
        """Begin an activity; `on_done` is called when its work is done, in the order of the starts among equals."""
        activity = Activity(weights, work_s, on_done, crowded_rate, updated_s=self._env.now)
        self._active[activity] = None
        self._add_demand(activity, 1)
        if self._saturated or not self._fits(weights):
            self._share()
        if activity.version == 0:
            self._set_timer(activity)

    def _add_demand(self, activity: Activity, sign: int) -> None:
        for resource, weight in activity.weights.items():
            self._demand[resource] += sign * weight
            if activity.crowded_rate is None:
                self._sleepless_demand[resource] += sign * weight

    def _cap(self, activity: Activity) -> float:
        if activity.crowded_rate is None:
            return 1.0
        crowded = any(
            self._sleepless_demand[resource] >= self._capacities[resource] * (1 - _ROUNDING)
            for resource in activity.weights
        )
        return activity.crowded_rate if crowded else 1.0

    def _fits(self, weights: Mapping[Hashable, float]) -> bool:
        return all(self._demand[resource] <= self._capacities[resource] for resource in weights)

    def _share(self) -> None:
        """Give every activity its max-min fair rate from now on."""
        weights = [activity.weights for activity in self._active]
        rates = max_min_rates(weights, self._capacities, [self._cap(activity) for activity in self._active])
        self._saturated = any(rate < 1.0 for rate in rates)
        now_s = self._env.now
        for activity, rate in zip(self._active, rates, strict=True):
            if rate == activity.rate:
                continue
            activity.remaining_s -= (now_s - activity.updated_s) * activity.rate
            activity.updated_s = now_s
            activity.rate = rate
            self._set_timer(activity)

    def _set_timer(self, activity: Activity) -> None:
        activity.version += 1
        version = activity.version
        delay_s = max(activity.remaining_s, 0.0) / activity.rate
        timer = self._env.timeout(delay_s)
        timer.callbacks.append(lambda _: self._finish(activity, version))

    def _finish(self, activity: Activity, version: int) -> None:
        if activity.version != version:
            return
        del self._active[activity]
        self._add_demand(activity, -1)
        if self._saturated:
            self._share()
        activity.on_done()


def max_min_rates(
    activities: Sequence[Mapping[Hashable, float]], capacities: Mapping[Hashable, float], caps: Sequence[float]
) -> list[float]:
    """Give the max-min fair rates of activities with these weights on these capacities, each at most its cap.

    >>> max_min_rates([{"a": 1.0}, {"a": 1.0, "b": 1.0}, {"b": 1.0}], {"a": 2.0, "b": 1.0}, [1.0, 1.0, 1.0])
    [1.0, 0.5, 0.5]
    """
    rates = [0.0] * len(activities)
    rising = dict.fromkeys(range(len(activities)))
    spare = dict(capacities)
    level = 0.0
    while rising:
        pressure: dict[Hashable, float] = {}
        for index in rising:
            for resource, weight in activities[index].items():
                pressure[resource] = pressure.get(resource, 0.0) + weight
        next_cap = min(caps[index] for index in rising)
        rise = min([next_cap - level, *(spare[resource] / load for resource, load in pressure.items() if load > 0)])
        level += rise
        full = set()
        for resource, load in pressure.items():
            spare[resource] -= rise * load
            if spare[resource] <= _ROUNDING * capacities[resource]:
                full.add(resource)
        stopped = [i for i in rising if level >= caps[i] - _ROUNDING or not full.isdisjoint(activities[i])]
        for index in stopped:
            rates[index] = min(level, caps[index])
            del rising[index]
    return rates
