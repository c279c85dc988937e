"""Max-min fair rates, kept up to date while users come and go.

*Filling.* The rates of all users rise together from zero. A resource is full at the level where its users, each at the
level or at the lower rate at which it has stopped, need all that it has: there all that still rise on it stop. So no
user could have more without one that has no more than it having less. Source: Bertsekas and Gallager, "Data
Networks", 1992, section 6.5.2.

*Changes.* When users come or go, filling takes the same course as before up to the level of the first difference, and
away from the differences it always does. So it is repeated only where it differs. A sweep goes through the levels:

- it begins with the resources whose users have changed, and with the new users, which rise;
- where such a resource is full, those of its users stop that rise or had more: what is new to them changes their other
  resources, from this level on;
- where it is no longer full at the level at which it was, the users that had stopped there for that reason rise on, and
  change their other resources, too.

A user that is reached by no change keeps its rate. Rates do not depend on the order of users or resources: weights are
whole numbers (or multiples of 2^-20), so their sums are exact, and what equal rates take off a resource is one product.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

Weights = Sequence[tuple[int, float]]
"""(resource, what a user needs of it at rate 1)."""

ROUNDING = 1e-9
"""The part of a rate or capacity that may be lost to rounding: what differs less counts as equal."""
_INFINITE = float("inf")


class User(Hashable, Protocol):
    """Something that wants a rate; users are told apart by what they are, not by their weights."""

    weights: Weights
    cap: float
    """The largest rate."""


U = TypeVar("U", bound=User)


class MaxMin(Generic[U]):
    """Resources, their users, and the users' rates."""

    def __init__(self, capacities: Mapping[int, float]) -> None:
        self.capacities = dict(capacities)
        self.users: dict[int, dict[U, float]] = defaultdict(dict)
        """The users of each resource, with their weights."""
        self.rates: dict[U, float] = {}
        self._full: dict[int, float] = {}
        """The level at which a resource is full; those that never are have none."""
        self._changed: dict[int, None] = {}
        self._new: dict[U, None] = {}

    def add(self, user: U) -> None:
        """Let a user rise; it has rate 0 until the next update."""
        self.rates[user] = 0.0
        self._new[user] = None
        for resource, weight in user.weights:
            self.users[resource][user] = weight
            self._changed[resource] = None

    def place(self, user: U) -> None:
        """Add a user that has its cap at once, because none of its resources is full with it."""
        self.rates[user] = user.cap
        for resource, weight in user.weights:
            self.users[resource][user] = weight

    def remove(self, user: U, full: Iterable[int]) -> None:
        """Forget a user; of its resources those in `full` may have kept others from rising."""
        del self.rates[user]
        self._new.pop(user, None)
        for resource, _ in user.weights:
            del self.users[resource][user]
        self._changed.update(dict.fromkeys(full))

    def set_capacity(self, resource: int, capacity: float) -> None:
        """Change a resource; its users' caps may change with it."""
        self.capacities[resource] = capacity
        self._changed[resource] = None
        for user in self.users[resource]:
            self._new[user] = None
            self._changed.update(dict.fromkeys(other for other, _ in user.weights))

    def override(self, resource: int, rates: Mapping[U, float]) -> None:
        """Give the users of a resource other rates, until something changes on it."""
        self.rates.update(rates)
        self._full[resource] = 0.0

    def update(self) -> Mapping[U, float]:
        """Compute what changes; give the users that have stopped anew, with their rates.

        >>> class Flow:
        ...     cap = 9.0
        ...     def __init__(self, *links: int) -> None:
        ...         self.weights = [(link, 1) for link in links]
        >>> a, both, b, shares = Flow(0), Flow(0, 1), Flow(1), MaxMin({0: 2.0, 1: 1.0})
        >>> for flow in (a, both, b):
        ...     shares.add(flow)
        >>> list(shares.update().values())
        [0.5, 0.5, 1.5]
        """
        sweep = _Sweep(self.users, self.capacities, self.rates, self._full)
        found = sweep.run(self._new, self._changed)
        self._new, self._changed = {}, {}
        for resource, level in sweep.levels.items():
            if level < _INFINITE:
                self._full[resource] = level
            else:
                self._full.pop(resource, None)
        self.rates.update(found)
        return found


class _Sweep(Generic[U]):
    """One pass through the levels, over what differs from before."""

    def __init__(
        self,
        users: Mapping[int, Mapping[U, float]],
        capacities: Mapping[int, float],
        rates: Mapping[U, float],
        full: Mapping[int, float],
    ) -> None:
        self.levels: dict[int, float] = {}
        """The level at which each resource is full that was looked at; infinite for never."""
        self._users = users
        self._capacities = capacities
        self._rates = rates
        self._full = full
        self._rising: dict[U, None] = {}
        self._stopped: dict[U, float] = {}
        self._level = 0.0
        self._events: list[tuple[float, int, int, int | U]] = []
        self._order = itertools.count()

    def run(self, new: Iterable[U], changed: Iterable[int]) -> Mapping[U, float]:
        """Go through the levels; give the rates of all users that stopped anew."""
        for user in new:
            self._rise(user)
        for resource in changed:
            self._look_at(resource)
        while self._events:
            level, kind, _, item = heapq.heappop(self._events)
            self._level = max(self._level, level)
            if isinstance(item, int):
                if self.levels[item] == level:
                    self._fill(item)
            elif kind == _CAP:
                if item in self._rising:
                    self._stop([item])
            elif item not in self._rising and item not in self._stopped and not self._is_held(item):
                self._rise(item)
                for resource, _ in item.weights:
                    self._look_at(resource)
        return self._stopped

    def _rise(self, user: U) -> None:
        self._rising[user] = None
        self._push(user.cap, _CAP, user)

    def _push(self, level: float, kind: int, item: int | U) -> None:
        heapq.heappush(self._events, (level, kind, next(self._order), item))

    def _rate(self, user: U) -> float:
        return self._stopped[user] if user in self._stopped else self._rates[user]

    def _look_at(self, resource: int) -> None:
        """Find the level at which a resource is full now; where it is higher, its users may be held by it no longer."""
        before = self.levels.get(resource, self._full.get(resource, _INFINITE))
        full_at, most = self._full_at(resource)
        level = self.levels[resource] = max(self._level, full_at)
        if level < _INFINITE and most > level * (1 + ROUNDING):
            self._push(level, _FULL, resource)
        if level > before * (1 + ROUNDING):
            for user in self._users[resource]:
                if user not in self._rising and user not in self._stopped:
                    rate = self._rates[user]
                    if rate >= before * (1 - ROUNDING):
                        self._push(rate, _RELEASED, user)

    def _full_at(self, resource: int) -> tuple[float, float]:
        """Give the level at which a resource is full: its users stop at their rates, or rise with the level.

        Also give the largest rate that one of them has, which is infinite while it rises.
        """
        rising, stopped, rates = self._rising, self._stopped, self._rates
        if len(self._users[resource]) == 1:
            return self._full_for_one(resource)
        rising_weight = 0.0
        known: dict[float, float] = {}
        for user, needed in self._users[resource].items():
            if user in rising:
                rising_weight += needed
            else:
                rate = stopped[user] if user in stopped else rates[user]
                known[rate] = known.get(rate, 0.0) + needed
        weight = rising_weight + sum(known.values())
        spare = self._capacities[resource]
        most = _INFINITE if rising_weight else max(known, default=0.0)
        for rate in sorted(known):
            if spare <= rate * weight * (1 + ROUNDING):
                return max(0.0, spare / weight), most
            spare -= rate * known[rate]
            weight -= known[rate]
        return (max(0.0, spare / rising_weight) if rising_weight else _INFINITE), most

    def _full_for_one(self, resource: int) -> tuple[float, float]:
        """Give the same of a resource with a single user, as most are."""
        ((user, needed),) = self._users[resource].items()
        full_at = max(0.0, self._capacities[resource] / needed)
        if user in self._rising:
            return full_at, _INFINITE
        rate = self._rate(user)
        is_full = self._capacities[resource] <= rate * needed * (1 + ROUNDING)
        return (full_at if is_full else _INFINITE), rate

    def _is_held(self, user: U) -> bool:
        """Tell whether a user stops where it did, at its cap or at a resource that is full there."""
        limit = self._rates[user] * (1 + ROUNDING)
        if user.cap <= limit:
            return True
        return any(self.levels.get(r, self._full.get(r, _INFINITE)) <= limit for r, _ in user.weights)

    def _fill(self, resource: int) -> None:
        """Stop the users of a resource that is full which rise, or had more."""
        limit = self._level * (1 + ROUNDING)
        self._stop([u for u in self._users[resource] if u in self._rising or self._rate(u) > limit])

    def _stop(self, users: Sequence[U]) -> None:
        """Stop users at the level, and look at their resources again."""
        for user in users:
            self._rising.pop(user, None)
            self._stopped[user] = self._level
        for resource in dict.fromkeys(resource for user in users for resource, _ in user.weights):
            self._look_at(resource)


_FULL, _CAP, _RELEASED = range(3)
"""What happens first at one level: resources are full, users reach their caps, users are released."""
