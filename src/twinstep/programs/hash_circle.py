"""A circle of hashes: consistent hashing of numbered items onto numbered owners.

Every owner has `POINTS` points on the circle, and an item belongs to the owner of the first point at or after its own
hash. One owner more takes the items before its points and moves no other; of k + 1 owners that is one part in k + 1 on
average. The share of an owner varies by about 1/sqrt(POINTS) of the mean. Source: Karger et al., "Consistent hashing
and random trees", 1997.
"""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b

POINTS = 128


class HashCircle:
    """The points of all owners."""

    def __init__(self, owners: int) -> None:
        points = sorted(
            (hashed(f"owner {owner} point {point}"), owner) for owner in range(owners) for point in range(POINTS)
        )
        self._hashes = [found for found, _ in points]
        self._owners = [owner for _, owner in points]

    def owner(self, item: int) -> int:
        """Give the owner of an item."""
        return self._owners[bisect_left(self._hashes, hashed(f"item {item}")) % len(self._owners)]


def hashed(text: str) -> int:
    """Hash a text to 64 bits, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
