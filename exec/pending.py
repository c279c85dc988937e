"""Pending: communication under way, and when it was complete.

Most of torch's collectives have futures, which note their end when it comes. What has none is watched by a thread for
each lane of collectives and each channel of messages. A message that is received and not announced has no thread: its
end is noted when the program has come to wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from twinstep.effects import Collective, Transfer
from twinstep.timeline import Phase

Record = tuple[int, str, str, Phase, int, int, int, str]
"""Step, lane, operation, phase, start in ns, end in ns, bytes, group."""

Observed = tuple[int, int, str, float]
"""Step, time in ns, name, value."""

NEVER = timedelta(days=1)
"""Gloo closes every connection of a group when one wait of it runs out of time. A message may be long in coming; who
waits too long is ended by the supervisor."""
now_ns = time.perf_counter_ns
"""The clock of all host times; on Linux it is the machine's monotonic clock, the same in all processes."""

EffectT = TypeVar("EffectT", bound=Collective | Transfer)


class Pending(Generic[EffectT]):
    """Something under way: torch's work object, and the times of its beginning and its end."""

    def __init__(self, effect: EffectT, work: dist.Work, step: int, start_ns: int) -> None:
        self.effect = effect
        self.work = work
        self.step = step
        self.start_ns = start_ns
        self.end_ns = 0
        self.failed = False
        """Whether the rank at the other end died."""

    def wait(self) -> None:
        """Block until it is complete; the group's timeout bounds this. Raises RuntimeError where it failed."""
        self.work.wait()
        self.end_ns = now_ns()

    def record(self) -> Record:
        """Give its span."""
        effect = self.effect
        span = (self.start_ns, self.end_ns, effect.size_bytes, effect.group)
        return (self.step, effect.lane, effect.operation, "communication", *span)


class PendingCollective(Pending[Collective]):
    """A collective, whose future notes the end."""

    def __init__(self, effect: Collective, work: dist.Work, step: int, start_ns: int) -> None:
        super().__init__(effect, work, step, start_ns)
        self._future = work.get_future().then(self._note_end)

    def _note_end(self, _: Any) -> None:
        self.end_ns = now_ns()

    def wait(self) -> None:
        """Block until it is complete."""
        self.work.wait()
        self._future.wait()


class PendingWatched(Pending[Any]):
    """Something without a future, which its lane's thread watches."""

    def __init__(self, effect: Collective | Transfer, work: dist.Work, step: int, start_ns: int, watch: Watch) -> None:
        super().__init__(effect, work, step, start_ns)
        self.error: Exception | None = None
        self.done = threading.Event()
        watch.add(self)

    def finish(self, error: Exception | None) -> None:
        """Note the end, or why there is none."""
        self.error = error
        self.end_ns = now_ns()
        self.done.set()

    def wait(self) -> None:
        """Block until it is complete."""
        self.done.wait()
        if self.error is not None:
            raise self.error


class PendingAnnounced(PendingWatched):
    """A receive that the rank hears of when it is complete."""

    def __init__(
        self,
        effect: Transfer,
        work: dist.Work,
        step: int,
        start_ns: int,
        watch: Watch,
        arrived: SimpleQueue[PendingAnnounced],
    ) -> None:
        self._arrived = arrived
        super().__init__(effect, work, step, start_ns, watch)

    def finish(self, error: Exception | None) -> None:
        """Tell the rank."""
        super().finish(error)
        self._arrived.put(self)


class Watch:
    """A thread that waits for what is begun on one lane or channel, in the order of the beginnings."""

    def __init__(self, *, patient: bool) -> None:
        """Watch; where `patient` for ever, else until the group's timeout."""
        self._patient = patient
        self._queue: SimpleQueue[PendingWatched] = SimpleQueue()
        self._under_way: deque[PendingWatched] = deque()
        self._lock = threading.Lock()
        self._broken: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, pending: PendingWatched) -> None:
        """Watch one more."""
        with self._lock:
            if self._broken:
                pending.finish(self._broken)
            else:
                self._under_way.append(pending)
                self._queue.put(pending)

    def break_off(self, error: Exception) -> None:
        """Let all that is watched end with an error, and all that follows."""
        with self._lock:
            self._broken = error
            while self._under_way:
                self._under_way.popleft().finish(error)

    def _run(self) -> None:
        while True:
            pending = self._queue.get()
            found = None
            try:
                pending.work.wait(*([NEVER] if self._patient else []))
            except Exception as error:  # whatever it is, who waits must learn of it
                found = error
            with self._lock:
                if not self._broken:
                    self._under_way.popleft().finish(found)
