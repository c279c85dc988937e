"""Token buckets: what links that were not full let through at once.

A bucket gathers what its link could have carried and did not, up to its depth. What starts takes the contents of the
emptiest bucket on its way, for each of its flows, in the order of the starts; the bytes that this lets through still
take the time that everything but these links needs for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Use(Protocol):
    """What something needs of a resource to progress at rate 1."""

    @property
    def resource(self) -> int:
        """The index of the resource."""
        ...

    @property
    def weight(self) -> float:
        """What of it is needed."""
        ...


class TokenBuckets:
    """The buckets of some resources, full at the beginning."""

    def __init__(self, depths: Mapping[int, float], capacities: Sequence[float]) -> None:
        self._depths = depths
        self._capacities = {resource: capacities[resource] for resource in depths}
        self._tokens = dict(depths)
        self._used = dict.fromkeys(depths, 0.0)
        self._updated_s = dict.fromkeys(depths, 0.0)

    def __contains__(self, resource: int) -> bool:
        return resource in self._depths

    def use(self, uses: Sequence[Use], change: float, now_s: float) -> None:
        """Let something progress faster by `change`, or slower."""
        for use in uses:
            if use.resource in self._depths:
                self._update(use.resource, now_s)
                self._used[use.resource] += use.weight * change

    def take(self, uses: Sequence[Use], most: float, now_s: float) -> float:
        """Give how much of something passes at once, `most` at the most, and empty the buckets by it."""
        uses = [use for use in uses if use.resource in self._depths]
        for use in uses:
            self._update(use.resource, now_s)
        taken = min([most, *(self._tokens[use.resource] / use.weight for use in uses)]) if uses else 0.0
        for use in uses:
            self._tokens[use.resource] -= use.weight * taken
        return taken

    def set_capacity(self, resource: int, capacity: float, now_s: float) -> None:
        """Fill a bucket at another rate from now on."""
        if resource in self._depths:
            self._update(resource, now_s)
            self._capacities[resource] = capacity

    def _update(self, resource: int, now_s: float) -> None:
        """Gather what was not used since the last update."""
        unused = max(0.0, self._capacities[resource] - self._used[resource])
        gathered = self._tokens[resource] + unused * (now_s - self._updated_s[resource])
        self._tokens[resource] = min(self._depths[resource], max(0.0, gathered))
        self._updated_s[resource] = now_s
