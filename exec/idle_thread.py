"""A thread that works while nothing else on the machine's cores wants to.

What a worker learns takes real time, while its device is idle for the modelled one. Ranks share cores, so what one of
them computes would keep the messages of others; under SCHED_IDLE it gives way to whatever wakes up. A thread of its
own needs no privilege for that, where a program that did so could not come back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class IdleThread:
    """Does one thing after another."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_give_way)

    def do(self, work: Callable[[], float | None]) -> float | None:
        """Do some work, wait for it, and give what it gives; raises what it raises."""
        return self._thread.submit(work).result()


def _give_way() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
