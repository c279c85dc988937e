"""Clock: moments of a device, read when the run is over, so that measuring never makes it wait."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from twinstep.exec.pending import now_ns

Moment = Any
"""What a clock notes: nanoseconds, or an event of a stream."""


class Clock(Protocol):
    """Where times come from."""

    def now(self) -> Moment:
        """Note this moment."""
        ...

    def ns(self, moment: Moment) -> int:
        """Give a moment in nanoseconds of the host's clock."""
        ...


class HostClock:
    """The host's clock, for devices that compute while the host waits."""

    def now(self) -> Moment:
        """Note this moment."""
        return now_ns()

    def ns(self, moment: Moment) -> int:
        """Give it back."""
        return int(moment)


class CudaClock:
    """Events on the current stream: a moment is when the stream has come so far."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        self._origin = self.now()
        self._origin.synchronize()
        self._origin_ns = now_ns()

    def now(self) -> Moment:
        """Record an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ns(self, moment: Moment) -> int:
        """Await an event, and tie its time to the host's clock."""
        moment.synchronize()
        return self._origin_ns + round(float(self._origin.elapsed_time(moment)) * 1e6)
