"""Turns: in which order the messages of a host leave it.

All that a host sends waits in one queue, and each connection has a window in it at the most. So a message begins behind
the windows of those that are under way already; what is longer than a window takes turns with them afterwards.

    a        aaaaaaaaaa           two messages, shorter than a window, on a link for both:
    b                  bbbbbbbb   shared evenly, both would arrive at the end

A queue is there only where the host's own link is full. Where links behind it are slower, windows wait there, and
switches serve sources in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import simpy

from twinstep.sim.fluid import Fluid
from twinstep.sim.running import Running


class Turns:
    """The queues of all hosts, by the links that leave them."""

    def __init__(self, env: simpy.Environment, fluid: Fluid, window_bytes: float) -> None:
        self._env = env
        self._fluid = fluid
        self._window_bytes = window_bytes
        self._waiting: dict[int, dict[Running, float]] = defaultdict(dict)
        """The bytes of first windows that wait for their turn."""
        self._under_way: dict[int, dict[Running, None]] = defaultdict(dict)

    def wait(self, link: int, running: Running, go_on: Callable[[], None]) -> None:
        """Let a message go on when the windows that are ahead of it have left."""
        ahead_bytes = self._ahead_bytes(link)
        if not ahead_bytes:
            self._under_way[link][running] = None
            go_on()
            return
        self._waiting[link][running] = min(running.part.work * _weight(running, link), self._window_bytes)

        def begin(_: simpy.Event) -> None:
            del self._waiting[link][running]
            self._under_way[link][running] = None
            go_on()

        self._env.timeout(ahead_bytes / self._fluid.capacity(link)).callbacks.append(begin)

    def end(self, link: int, running: Running) -> None:
        """Forget a message that has left, or failed."""
        self._under_way[link].pop(running, None)

    def _ahead_bytes(self, link: int) -> float:
        """Give what is in the queue of a link; one that is not full has none."""
        own = self._under_way[link]
        waiting_bytes = sum(self._waiting[link].values())
        if not own or not self._fluid.is_full(link):
            return waiting_bytes
        return waiting_bytes + sum(self._queued_bytes(link, running) for running in own)

    def _queued_bytes(self, link: int, running: Running) -> float:
        """Give what a message has in the queue: a window, or what is left of it."""
        if running.activity is None:
            return 0.0
        return min(self._window_bytes, _weight(running, link) * self._fluid.left(running.activity))


def _weight(running: Running, link: int) -> float:
    """Give how many bytes on a link a byte of a message is, with its headers."""
    return next(load.weight for load in running.part.loads if load.resource == link)
