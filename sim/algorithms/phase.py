"""Phase: flows of equal size that run at the same time; a collective is some phases, one after another.

Where ranks send each other unequal amounts, a pair is as many flows as it takes.

A phase of s steps takes, alone, `s (a + o) + (b + f) / r`: a is the largest latency of its flows' paths, o what the
library adds to a step, b the bytes of a flow, r the rate of a flow on the fullest link, and f the bytes for which a
pipeline waits before its last stage has something to do. The fluid sees b alone; the rest is a delay before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.splits import Splits
from twinstep.timeline import CollectiveKind

SEGMENT_BYTES = 512 * 1024
"""Pieces that pipelined algorithms send: one of the 8 slots of NCCL's 4 MiB buffers (NCCL_BUFFSIZE, NCCL_STEPS)."""

Kind = CollectiveKind | Literal["send"]
"""A collective, or a message from the first of two ranks to the second."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be communicated among whom."""

    kind: Kind
    ranks: int
    size_bytes: float
    """Bytes of a rank's whole buffer."""
    per_host: int = 1
    """How many consecutive ranks share a host; 1 where hosts have unequal numbers."""
    splits: Splits | None = None
    """The parts of an all_to_all that are unequal."""

    @property
    def share_bytes(self) -> float:
        """Bytes of one rank's share of the buffer."""
        return self.size_bytes / self.ranks

    def of_kind(self, kind: Kind) -> Request:
        """Give a request for another collective of the same buffer."""
        return replace(self, kind=kind)


@dataclass(frozen=True, slots=True)
class Phase:
    """Flows of equal size that run at the same time."""

    pattern: Pattern
    flow_bytes: float
    steps: int = 1
    """Messages one after another that make up a flow."""
    fill_bytes: float = 0.0
    """Bytes of a flow that pass before the last stage of a pipeline begins."""
    reduced_bytes: float = 0.0
    """Bytes that each rank adds to its own."""
    depth: int | None = None
    """Steps that must follow each other even where many messages are under way at once; all, where left out."""
    first_of: int = 1
    """Of how many flows from one rank, one begun after another, the first alone must arrive before the next phase."""


Phases = tuple[Phase, ...]


def segments(size_bytes: float) -> int:
    """Count the pieces that a pipelined algorithm cuts a buffer into.

    >>> segments(2**20), segments(10)
    (2, 1)
    """
    return max(1, -(-int(size_bytes) // SEGMENT_BYTES))
