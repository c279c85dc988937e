"""Notices: how much slower communication is because receivers say that they are ready behind what they send."""

from __future__ import annotations

from typing import NamedTuple


class Notices(NamedTuple):
    """What is left of a rate where notices wait behind messages; links stand idle meanwhile, for others to use."""

    rate_share: float = 1.0
    """The fraction that it gets of the rate that its resources allow it alone."""
    direction: int = 0
    """Around the ring of its group: 1 to the next rank, -1 to the one before, 0 for what has no direction."""
    opposed_rate: float = 1.0
    """The fraction of its rate that is left while another of its group goes in the other direction."""


NO_NOTICES = Notices()
"""Nothing waits."""
