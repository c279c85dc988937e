"""Meetings: communications, from the call of the first rank that joins to the moment at which all go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import simpy

from twinstep.effects import Communication, Transfer


class Meeting:
    """One communication, from its first rank's call to its completion; the handle that programs hold."""

    __slots__ = ("begun", "complete", "effect", "end_s", "failed", "issued", "ready_after")

    def __init__(self, effect: Communication, complete: simpy.Event) -> None:
        self.effect = effect
        self.complete = complete
        self.begun = False
        """Whether all have joined it, or it has failed."""
        self.failed = False
        """Whether a rank died that it needs."""
        self.end_s = float("nan")
        """When it was complete, in seconds of the simulation."""
        self.ready_after: Sequence[simpy.Event] = ()
        """What the receiver's notice waits for."""
        self.issued: list[tuple[int, int, float, Communication]] = []
        """For each rank that issued it: rank, step, time of the call in seconds, its effect."""


class End(NamedTuple):
    """One end of a message, as the handle of the program that is there."""

    meeting: Meeting
    effect: Transfer
    complete: simpy.Event
    """The event of the completion."""

    @property
    def begun(self) -> bool:
        """Whether both ends have joined it, or it has failed."""
        return self.meeting.begun

    @property
    def failed(self) -> bool:
        """Whether one end died."""
        return self.meeting.failed


class Stream:
    """What one rank of a group is sending to another, over one connection, in order.

    Gloo's receiver says by the same connection that it is ready, behind whatever it is sending itself. A message whose
    notice has not come is not being sent.
    """

    def __init__(self) -> None:
        self._last: simpy.Event | None = None

    def before(self) -> Sequence[simpy.Event]:
        """Give the end of what goes before a message or notice that is sent now: it has come after all others."""
        return () if self._last is None else (self._last,)

    def send(self, meeting: Meeting) -> Sequence[simpy.Event]:
        """Send a message after all others, now that its receiver is ready; give the end of what goes before it."""
        before, self._last = self.before(), meeting.complete
        return before


class Streams(NamedTuple):
    """Both directions of a connection, as one channel sees them."""

    forth: Stream
    back: Stream
