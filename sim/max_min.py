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
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

Weights = Sequence[tuple[int, float]]
"""(resource, what a user needs of it at rate 1)."""


class User(Hashable, Protocol):
    """Something that wants a rate; users are told apart by what they are, not by their weights."""

    weights: Weights


U = TypeVar("U", bound=User)


class Resource(NamedTuple):
    """Something that is shared: what is left of it for the users that rise."""

    spare: float
    weight: float
    """That of all users that rise."""


def max_min_rates(
    caps: Mapping[U, float], resources: Mapping[int, Resource], users: Mapping[int, Mapping[U, float]]
) -> dict[U, float]:
    """Give each user's max-min fair rate, none above its cap.

    `users` are those of each resource, with their weights; those without a cap do not rise. Resources that are not
    listed do not limit anybody.
    """
    return _Filling(caps, resources, users).rates()


class _Filling(Generic[U]):
    """The state of progressive filling."""

    def __init__(
        self, caps: Mapping[U, float], resources: Mapping[int, Resource], users: Mapping[int, Mapping[U, float]]
    ) -> None:
        self._users = users
        self._spare = {resource: spare for resource, (spare, _) in resources.items()}
        self._weight = {resource: weight for resource, (_, weight) in resources.items()}
        self._level = 0.0
        self._heap = [(spare / weight, resource) for resource, (spare, weight) in resources.items() if weight > 0]
        """For each resource a level below which it is not full: what it was when it was last looked at."""
        heapq.heapify(self._heap)
        self._rising = dict(caps)
        self._caps = [(cap, index, user) for index, (user, cap) in enumerate(caps.items())]
        heapq.heapify(self._caps)
        self._rates: dict[U, float] = {}

    def rates(self) -> dict[U, float]:
        """Fill until everybody has stopped."""
        while self._rising:
            self._level = min(self._next_cap(), self._next_full())
            self._take_off(self._stop())
        return self._rates

    def _next_cap(self) -> float:
        while self._caps[0][2] not in self._rising:
            heapq.heappop(self._caps)
        return self._caps[0][0]

    def _next_full(self) -> float:
        """Give the lowest level at which a resource is full; its entry is the first of the heap then."""
        heap = self._heap
        while heap:
            noted, resource = heap[0]
            weight = self._weight[resource]
            if weight <= 0:
                heapq.heappop(heap)
                continue
            full = max(self._level, self._spare[resource] / weight)
            if full <= noted:
                return full
            heapq.heapreplace(heap, (full, resource))
        return float("inf")

    def _stop(self) -> list[U]:
        """Stop the users of every resource that is full at the level, and those whose cap it is."""
        level, rising = self._level, self._rising
        stopped: list[U] = []
        while self._next_full() == level:
            _, resource = heapq.heappop(self._heap)
            self._weight[resource] = 0.0
            for user in self._users[resource]:
                if rising.pop(user, None) is not None:
                    stopped.append(user)
        while self._caps and self._caps[0][0] == level:
            user = heapq.heappop(self._caps)[2]
            if rising.pop(user, None) is not None:
                stopped.append(user)
        self._rates.update(dict.fromkeys(stopped, level))
        return stopped

    def _take_off(self, stopped: Sequence[U]) -> None:
        """Take what the stopped use off the resources that are not full yet: what is equal in one product."""
        left = self._weight
        taken: dict[int, float] = {}
        for user in stopped:
            for resource, weight in user.weights:
                if resource in left:
                    taken[resource] = taken.get(resource, 0.0) + weight
        for resource, weight in taken.items():
            if left[resource] > 0:
                self._spare[resource] -= self._level * weight
                left[resource] -= weight
