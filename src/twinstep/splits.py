"""Splits: an all-to-all whose parts are not all equal, as that of tokens on their way to experts."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Splits(NamedTuple):
    """The parts of an all-to-all that are not all equal; how large one is depends on one of its ends alone.

    By the target, every rank sends `sizes_bytes[j]` to rank j, as tokens go to their experts; by the source, rank i
    sends `sizes_bytes[i]` to every rank, as they come back. Each rank has a part for itself, too.

    >>> there = Splits("target", (8, 0))
    >>> there.sent_bytes(0), there.received_bytes(0)
    ((8, 0), (8, 8))
    """

    by: Literal["source", "target"]
    sizes_bytes: tuple[int, ...]
    """By position in the group."""

    @property
    def back(self) -> Splits:
        """Give the parts of an all-to-all that sends everything back."""
        return Splits("source" if self.by == "target" else "target", self.sizes_bytes)

    def sent_bytes(self, position: int) -> tuple[int, ...]:
        """Give what the rank at a position sends to each."""
        return self.sizes_bytes if self.by == "target" else (self.sizes_bytes[position],) * len(self.sizes_bytes)

    def received_bytes(self, position: int) -> tuple[int, ...]:
        """Give what the rank at a position receives from each."""
        return self.back.sent_bytes(position)
