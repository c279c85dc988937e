"""Keys: which parameter server has which parameters.

*Range*: consecutive ranges whose lengths differ by one element at most.

*Consistent hashing*: every server has `VIRTUAL_NODES` points on a circle of hashes, and a block of parameters belongs
to the server of the first point at or after its own hash. One server more takes the blocks before its points and moves
no other; of k + 1 servers that is one part in k + 1 on average. The share of a server varies by about
1/sqrt(VIRTUAL_NODES) around the mean. Source: Karger et al., "Consistent hashing and random trees", 1997.
"""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b

from twinstep.kernels import ELEMENT_BYTES
from twinstep.programs.placement import shards
from twinstep.synchronisation import Servers

VIRTUAL_NODES = 128


def key_ranges(servers: Servers, elements: int) -> tuple[tuple[range, ...], ...]:
    """List for each server the ranges of parameters that it has, in order.

    >>> key_ranges(Servers(count=2), 5)
    ((range(0, 3),), (range(3, 5),))
    """
    if servers.keys == "range":
        return tuple((part,) if part else () for part in shards(elements, servers.count))
    length = max(1, servers.block // ELEMENT_BYTES)
    found: list[list[range]] = [[] for _ in range(servers.count)]
    owners = HashCircle(servers.count)
    for block, start in enumerate(range(0, elements, length)):
        found[owners.owner(block)].append(range(start, min(elements, start + length)))
    return tuple(map(tuple, found))


class HashCircle:
    """The points of all servers on the circle of hashes."""

    def __init__(self, servers: int) -> None:
        points = sorted(
            (_hash(f"server {server} point {point}"), server)
            for server in range(servers)
            for point in range(VIRTUAL_NODES)
        )
        self._hashes = [found for found, _ in points]
        self._servers = [server for _, server in points]

    def owner(self, block: int) -> int:
        """Give the server of a block."""
        return self._servers[bisect_left(self._hashes, _hash(f"block {block}")) % len(self._servers)]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
