"""Link: one direction of a connection between two nodes."""

from __future__ import annotations

from typing import NamedTuple


class Link(NamedTuple):
    """One direction of a link."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float
    shared: str = ""
    """The name of the half-duplex link that it is a direction of; empty for full duplex."""
