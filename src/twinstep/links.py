"""What the links of a topology carried in a run."""

from __future__ import annotations

from typing import NamedTuple


class LinkUse(NamedTuple):
    """One direction of a link (both together, where it is half-duplex), over a whole run, warm-up included."""

    source: str
    target: str
    size_bytes: float
    """Bytes that crossed it, headers included where the library has them."""
    utilisation: float
    """These bytes as a fraction of what it could have carried from the beginning of the run to its end."""
    queueing_s: float
    """Integral over time of what wanted to cross beyond the bandwidth, in bandwidths: the waiting transfers, summed
    up."""
