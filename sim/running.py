"""Running: what a communication costs, one after another, and how far one has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from twinstep.effects import Communication
from twinstep.sim.fluid import Activity, Load
from twinstep.sim.meetings import Meeting
from twinstep.sim.notices import NO_NOTICES, Notices


class Part(NamedTuple):
    """A part of a communication: a delay, then work on resources."""

    delay_s: float
    work: float
    loads: Sequence[Load]
    cap: float
    crowded_rate: float | None
    tail: float = 0.0
    """Work that is left while the next part begins."""
    notices: Notices = NO_NOTICES
    answers: Sequence[Load] = ()
    """Acknowledgements, for each byte of work, on links that carry nothing else of it: they go before all others."""


Prices = Callable[[Communication], Sequence[Part]]
"""Gives what an effect costs from now on."""


class Running:
    """A communication under way, in one of its parts."""

    __slots__ = ("activity", "cap", "index", "loads", "meeting", "part", "parts", "rest", "share", "size_bytes")

    def __init__(self, meeting: Meeting, parts: Sequence[Part]) -> None:
        self.meeting = meeting
        self.parts = parts
        self.index = -1
        self.part: Part
        """The part that it is in."""
        self.activity: Activity | None = None
        self.loads: Sequence[Load] = ()
        """What the activity needs, as if it were alone on its connections."""
        self.rest = 0.0
        """The work that follows the activity's, where links let that through at once."""
        self.share = 1.0
        """How many times as long it takes for sharing its connections."""
        self.cap = float("inf")
        """The activity's largest rate."""
        self.size_bytes = max(1, meeting.effect.size_bytes)
