"""Admission: which workers a parameter server answers when a gradient has come.

A worker's clock is the number of its gradients that have come. It is answered, and goes on, once its clock is at most
`bound` ahead of the slowest one's. So with a bound of 0 all wait for all (bulk synchronous), without one nobody waits
(asynchronous), and in between (stale synchronous parallel) a worker computes with parameters that lack at most `bound`
steps of any other worker. Source: Ho et al., "More effective distributed ML via a stale synchronous parallel parameter
server", 2013.
"""

from __future__ import annotations

from collections import Counter

from twinstep.synchronisation import Sync


class Admission:
    """The clocks of all workers, and who waits.

    >>> admission = Admission(workers=2, bound=0)
    >>> admission.pushed(1), admission.pushed(0)
    ([], [0, 1])
    """

    def __init__(self, workers: int, bound: int | None) -> None:
        """Let workers be `bound` steps ahead at most; None for any number."""
        self._clocks = [0] * workers
        self._at = Counter({0: workers})
        """How many workers are at each clock."""
        self.slowest = 0
        """The clock of the slowest worker."""
        self._bound = bound
        self._waiting: list[int] = []

    def pushed(self, worker: int) -> list[int]:
        """Note a gradient of a worker; give the workers to answer, in order of rank."""
        clock = self._clocks[worker]
        self._clocks[worker] = clock + 1
        self._at[clock] -= 1
        self._at[clock + 1] += 1
        if not self._at[self.slowest]:
            self.slowest += 1
        if self._bound is None:
            return [worker]
        self._waiting.append(worker)
        limit = self.slowest + self._bound
        ready = sorted(each for each in self._waiting if self._clocks[each] <= limit)
        self._waiting = [each for each in self._waiting if self._clocks[each] > limit]
        return ready


def admission(sync: Sync, workers: int) -> Admission:
    """Give the rule of a mode."""
    bounds = {"bulk_synchronous": 0, "stale_synchronous": sync.bound, "asynchronous": None}
    return Admission(workers, bounds[sync.mode])
