"""Routes through the core of a network: what is left of a graph when its trees have been taken off.

A route is a list of links, each with the share of the flow that takes it: 1, or less where a flow is divided. All
routes are shortest in hops. Of several,

- `shortest` takes the one whose node comes first by index, which is the natural order of their names;
- `ecmp` chooses at every node by a hash of the flow's two ends and the node, as switches do;
- `spray` divides evenly at every node, as fabrics that spray packets do. Shares are rounded to multiples of 2^-20, so
  that their sums do not depend on the order of adding.

The last two choose among the widest of the links that lead nearer to the target, as paths of equal cost are: devices
that share a crossbar do not send half of their traffic through their host's PCIe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Policy = Literal["shortest", "ecmp", "spray"]

_SHARES = 2**20
_MASK = 2**64 - 1


class Hop(NamedTuple):
    """One link of a route."""

    link: int
    share: float


class Route(NamedTuple):
    """The way from one node of the core to another."""

    hops: tuple[Hop, ...]
    latency_s: float
    """The sum of the links' latencies; the largest of all ways where the flow is divided."""


class CoreRoutes:
    """Routes among some nodes, by the links that leave and enter each of them.

    `leaving` and `entering` give for each node the (neighbour, link) pairs in the order of the neighbours.
    """

    def __init__(
        self,
        leaving: Mapping[int, Sequence[tuple[int, int]]],
        entering: Mapping[int, Sequence[tuple[int, int]]],
        latencies_s: Sequence[float],
        bandwidths_bytes_per_s: Sequence[float],
        policy: Policy,
    ) -> None:
        self._leaving = leaving
        self._entering = entering
        self._latencies_s = latencies_s
        self._bandwidths_bytes_per_s = bandwidths_bytes_per_s
        self._policy = policy
        self._hops_to: dict[int, tuple[dict[int, int], deque[int]]] = {}
        self._routes: dict[tuple[int, int], Route | None] = {}

    def route(self, source: int, target: int, ends: Sequence[int]) -> Route | None:
        """Give the route between two nodes for the flow between two ends beyond them; None where there is none."""
        if self._policy == "ecmp":
            return self._walk(source, target, ends)
        if (source, target) not in self._routes:
            spray = self._policy == "spray"
            self._routes[source, target] = self._divide(source, target) if spray else self._walk(source, target, None)
        return self._routes[source, target]

    def _distances(self, target: int, source: int) -> dict[int, int]:
        """Count the hops to `target` from every node that is nearer to it than `source`, and from that if it can be."""
        hops, reached = self._hops_to.setdefault(target, ({target: 0}, deque([target])))
        while reached and source not in hops:
            here = reached.popleft()
            for node, _ in self._entering.get(here, ()):
                if node not in hops:
                    hops[node] = hops[here] + 1
                    reached.append(node)
        return hops

    def _nearer(self, here: int, hops: Mapping[int, int]) -> list[tuple[int, int]]:
        nearer = [(node, link) for node, link in self._leaving[here] if hops.get(node) == hops[here] - 1]
        if self._policy == "shortest":
            return nearer
        widest = max(self._bandwidths_bytes_per_s[link] for _, link in nearer)
        return [(node, link) for node, link in nearer if self._bandwidths_bytes_per_s[link] == widest]

    def _walk(self, source: int, target: int, ends: Sequence[int] | None) -> Route | None:
        hops = self._distances(target, source)
        if source not in hops:
            return None
        here, links = source, []
        while here != target:
            choices = self._nearer(here, hops)
            here, link = choices[_hash(*ends, here) % len(choices) if ends else 0]
            links.append(link)
        return Route(tuple(Hop(link, 1.0) for link in links), sum(self._latencies_s[link] for link in links))

    def _divide(self, source: int, target: int) -> Route | None:
        hops = self._distances(target, source)
        if source not in hops:
            return None
        shares, latencies_s = {source: 1.0}, {source: 0.0}
        taken: list[Hop] = []
        waiting = deque([source])
        while (here := waiting.popleft()) != target:  # in the order of the distance: each after all that lead to it
            choices = self._nearer(here, hops)
            share = round(shares[here] / len(choices) * _SHARES) / _SHARES
            for node, link in choices:
                if node not in shares:
                    shares[node], latencies_s[node] = 0.0, 0.0
                    waiting.append(node)
                shares[node] += share
                latencies_s[node] = max(latencies_s[node], latencies_s[here] + self._latencies_s[link])
                taken.append(Hop(link, share))
        return Route(tuple(taken), latencies_s[target])


def _hash(*numbers: int) -> int:
    """Mix whole numbers into 64 bits, the same in every process (the finaliser of SplitMix64, Steele et al., 2014)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return mixed
