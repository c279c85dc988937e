"""Max-min fair rates by progressive filling.

The rates of all users rise together from zero. A resource is full at the level (capacity left) / (weight of the users
still rising on it); the lowest such level, or the lowest cap of a user, comes next: there the users of that resource,
or that user, stop. What they use is taken off every resource they cross, and the others rise on. So no user could
have more without one that has no more than it having less. Source: Bertsekas and Gallager, "Data Networks", 1992,
section 6.5.2.

Weights are whole numbers (or multiples of 2^-20), so sums of them are exact. All that stops at one level is taken off a
resource in one product, level x weight. The rates therefore do not depend on the order of users or resources, and k
equal users get to the bit what one user with k times their weight gets.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

Weights = Sequence[tuple[int, float]]
"""(resource, what a user needs of it at rate 1)."""


class User(NamedTuple):
    """Something that wants a rate."""

    weights: Weights
    cap: float
    """Its largest rate."""


def max_min_rates(users: Sequence[User], capacities: Mapping[int, float]) -> list[float]:
    """Give each user's max-min fair rate; resources that are not in `capacities` do not limit anybody.

    >>> max_min_rates([User([(0, 1)], 9.0), User([(0, 1), (1, 1)], 9.0), User([(1, 1)], 9.0)], {0: 2.0, 1: 1.0})
    [1.5, 0.5, 0.5]
    """
    return _Filling(users, capacities).rates()


class _Filling:
    """The state of progressive filling."""

    def __init__(self, users: Sequence[User], capacities: Mapping[int, float]) -> None:
        self._users = users
        self._spare = dict(capacities)
        self._weight = dict.fromkeys(capacities, 0.0)
        self._members: dict[int, list[int]] = {resource: [] for resource in capacities}
        for index, (weights, _) in enumerate(users):
            for resource, weight in weights:
                if resource in self._spare:
                    self._weight[resource] += weight
                    self._members[resource].append(index)
        self._full_at = {r: self._spare[r] / weight for r, weight in self._weight.items() if weight > 0}
        self._heap = [(level, resource) for resource, level in self._full_at.items()]
        heapq.heapify(self._heap)
        self._caps = sorted(range(len(users)), key=lambda index: users[index].cap, reverse=True)
        self._rates: list[float | None] = [None] * len(users)

    def rates(self) -> list[float]:
        """Fill until everybody has stopped."""
        while True:
            while self._caps and self._rates[self._caps[-1]] is not None:
                self._caps.pop()
            if not self._caps:
                return [rate for rate in self._rates if rate is not None]
            level = min(self._users[self._caps[-1]].cap, self._next_full())
            self._take_off(level, self._stop_at(level))

    def _next_full(self) -> float:
        """Give the lowest level at which a resource is full; entries that have been replaced are dropped."""
        while self._heap and self._full_at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def _stop_at(self, level: float) -> Iterable[int]:
        """Stop the users of every resource that is full at this level, and those whose cap it is."""
        stopped = []
        while self._next_full() == level:
            _, resource = heapq.heappop(self._heap)
            del self._full_at[resource]
            stopped += [index for index in self._members[resource] if self._rates[index] is None]
            for index in stopped:
                self._rates[index] = level
        while self._caps and self._users[self._caps[-1]].cap == level:
            index = self._caps.pop()
            if self._rates[index] is None:
                self._rates[index] = level
                stopped.append(index)
        return stopped

    def _take_off(self, level: float, stopped: Iterable[int]) -> None:
        taken: dict[int, float] = {}
        for index in stopped:
            for resource, weight in self._users[index].weights:
                if resource in self._full_at:
                    taken[resource] = taken.get(resource, 0.0) + weight
        for resource, weight in taken.items():
            self._spare[resource] -= level * weight
            self._weight[resource] -= weight
            if self._weight[resource] > 0:
                self._full_at[resource] = max(level, self._spare[resource] / self._weight[resource])
                heapq.heappush(self._heap, (self._full_at[resource], resource))
            else:
                del self._full_at[resource]
