"""Token buckets: what links that were not full let through at once.

A bucket gathers what its link could have carried and did not, up to its depth. What starts takes the contents of the
emptiest bucket on its way, for each of its flows, in the order of the starts; the bytes that this lets through still
take the time that everything but these links needs for them.

Any token left lets a whole piece pass, so the last piece of what starts may overdraw the bucket; whoever comes next
waits until that is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from twinstep.sim.max_min import ROUNDING


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


class Bucket(NamedTuple):
    """The bucket of a link."""

    depth: float
    overdraft: float = 0.0
    """What the last piece takes beyond the contents, on average."""


class TokenBuckets:
    """The buckets of some resources, full at the beginning."""

    def __init__(self, buckets: Mapping[int, Bucket], capacities: Sequence[float]) -> None:
        self._buckets = buckets
        self._capacities = {resource: capacities[resource] for resource in buckets}
        self._tokens = {resource: bucket.depth for resource, bucket in buckets.items()}
        self._used = dict.fromkeys(buckets, 0.0)
        self._updated_s = dict.fromkeys(buckets, 0.0)

    def __contains__(self, resource: int) -> bool:
        return resource in self._buckets

    def use(self, uses: Sequence[Use], change: float, now_s: float) -> None:
        """Let something progress faster by `change`, or slower."""
        for use in uses:
            if use.resource in self._buckets:
                self._update(use.resource, now_s)
                self._used[use.resource] += use.weight * change

    def overdrawn_s(self, uses: Sequence[Use], now_s: float) -> float:
        """Give how long nothing passes, for what the last piece took of a link that nothing else uses now."""
        idle = [use.resource for use in uses if use.resource in self._buckets and self._is_idle(use.resource)]
        for resource in idle:
            self._update(resource, now_s)
        return max((-self._tokens[resource] / self._capacities[resource] for resource in idle), default=0.0)

    def _is_idle(self, resource: int) -> bool:
        """Tell whether nothing uses a link; sums of rates that came and went leave a residue."""
        return self._used[resource] <= ROUNDING * self._capacities[resource]

    def take(self, uses: Sequence[Use], most: float, now_s: float) -> float:
        """Give how much of something passes at once, `most` at the most, and empty the buckets by it."""
        uses = [use for use in uses if use.resource in self._buckets]
        for use in uses:
            self._update(use.resource, now_s)
        taken = min([most, *(self._passing(use, most) for use in uses)]) if uses else 0.0
        for use in uses:
            self._tokens[use.resource] -= use.weight * taken
        return taken

    def _passing(self, use: Use, most: float) -> float:
        """Give how much of something a bucket lets through: its contents, and if there are any, the last piece."""
        tokens = self._tokens[use.resource]
        if tokens < 0:
            return 0.0
        return (tokens + min(most * use.weight, self._buckets[use.resource].overdraft)) / use.weight

    def set_capacity(self, resource: int, capacity: float, now_s: float) -> None:
        """Fill a bucket at another rate from now on."""
        if resource in self._buckets:
            self._update(resource, now_s)
            self._capacities[resource] = capacity

    def _update(self, resource: int, now_s: float) -> None:
        """Gather what was not used since the last update."""
        unused = max(0.0, self._capacities[resource] - self._used[resource])
        gathered = self._tokens[resource] + unused * (now_s - self._updated_s[resource])
        self._tokens[resource] = min(self._buckets[resource].depth, gathered)
        self._updated_s[resource] = now_s
