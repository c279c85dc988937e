"""Admission: which gradients a parameter server applies when, and whom it answers.

*Bounded*: a gradient is applied when it comes. A worker's clock is the number of its gradients that have come; it is
answered, and goes on, once its clock is at most `bound` ahead of the slowest one's. Without a bound nobody waits
(asynchronous); with one, parameters lack at most `bound` steps of any worker (stale synchronous parallel). Source: Ho
et al., "More effective distributed ML via a stale synchronous parallel parameter server", 2013.

*Rounds*: the gradients of a round are applied together when all workers' have come, or all but those of `backups`
workers; whoever comes later is answered at once, and its gradient is dropped. Workers that have taken all their steps
are waited for no longer. Source: Chen et al., "Revisiting distributed synchronous SGD", 2016.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

from twinstep.synchronisation import Sync


class Verdict(NamedTuple):
    """What follows from a gradient that has come."""

    applied: list[int]
    """Workers whose gradients are applied now, in order of rank."""
    answered: list[int]
    """Workers that get parameters now, in order of rank."""


class Admission(Protocol):
    """The rule of a mode."""

    def lag(self, worker: int) -> int:
        """Give how many steps of the slowest worker a worker's parameters lacked when it got them; rounds, if late."""
        ...

    def pushed(self, worker: int) -> Verdict:
        """Note a gradient of a worker."""
        ...

    def left(self, worker: int) -> Verdict:
        """Go on without a worker that died."""
        ...


class Bounded:
    """Workers may be some steps ahead of the slowest.

    >>> admission = Bounded(workers=2, bound=0)
    >>> admission.pushed(1), admission.pushed(0)
    (Verdict(applied=[1], answered=[]), Verdict(applied=[0], answered=[0, 1]))
    """

    def __init__(self, workers: int, bound: int | None) -> None:
        """Let workers be `bound` steps ahead at most; None for any number."""
        self._clocks = [0] * workers
        self._at = Counter({0: workers})
        """How many workers are at each clock."""
        self._slowest = 0
        self._given = [0] * workers
        """The clock of the slowest worker when each got its parameters."""
        self._bound = bound
        self._waiting: list[int] = []

    def lag(self, worker: int) -> int:
        """Give how far ahead of the slowest a worker was when it got its parameters."""
        return self._clocks[worker] - self._given[worker]

    def pushed(self, worker: int) -> Verdict:
        """Apply the gradient; answer those who are not too far ahead."""
        clock = self._clocks[worker]
        self._clocks[worker] = clock + 1
        self._at[clock] -= 1
        self._at[clock + 1] += 1
        return Verdict([worker], self._ready([*self._waiting, worker]))

    def left(self, worker: int) -> Verdict:
        """Wait no longer for a worker."""
        self._at[self._clocks[worker]] -= 1
        return Verdict([], self._ready([each for each in self._waiting if each != worker]))

    def _ready(self, waiting: list[int]) -> list[int]:
        """List who of those that wait may go on, now that clocks have changed."""
        while not self._at[self._slowest] and self._slowest < max(self._clocks):
            self._slowest += 1
        limit = float("inf") if self._bound is None else self._slowest + self._bound
        ready = sorted(each for each in waiting if self._clocks[each] <= limit)
        self._waiting = [each for each in waiting if self._clocks[each] > limit]
        for each in ready:
            self._given[each] = self._slowest
        return ready


class Rounds:
    """All workers take a step together, or all but a few.

    >>> admission = Rounds(workers=3, steps=9, backups=1)
    >>> admission.pushed(2), admission.pushed(0), admission.pushed(1)
    (Verdict(applied=[], answered=[]), Verdict(applied=[0, 2], answered=[0, 2]), Verdict(applied=[], answered=[1]))
    """

    def __init__(self, workers: int, steps: int, backups: int) -> None:
        """Expect `steps` gradients of each worker, and wait for all but `backups` of the workers."""
        self._left = [steps] * workers
        self._needed = workers - backups
        self._round = 0
        self._given = [0] * workers
        """The round whose parameters each has."""
        self._come: list[int] = []

    def lag(self, worker: int) -> int:
        """Give how many rounds were closed since a worker got its parameters."""
        return self._round - self._given[worker]

    def pushed(self, worker: int) -> Verdict:
        """Close the round with enough gradients; answer whoever is late."""
        self._left[worker] -= 1
        late = self._given[worker] < self._round
        if late:
            self._given[worker] = self._round
        else:
            self._come.append(worker)
        closed = self._close()
        return Verdict(closed, sorted([*closed, worker]) if late else closed)

    def left(self, worker: int) -> Verdict:
        """Wait no longer for a worker; what has come of it counts."""
        self._left[worker] = 0
        closed = self._close()
        return Verdict(closed, closed)

    def _close(self) -> list[int]:
        may_come = sum(1 for left in self._left if left) + sum(1 for each in self._come if not self._left[each])
        if not self._come or len(self._come) < min(self._needed, may_come):
            return []
        closed, self._come = sorted(self._come), []
        self._round += 1
        for each in closed:
            self._given[each] = self._round
        return closed


def admission(sync: Sync, workers: int, steps: int) -> Admission:
    """Give the rule of a mode for workers that take some steps each."""
    if sync.mode == "bulk_synchronous":
        return Rounds(workers, steps, sync.backups)
    return Bounded(workers, None if sync.mode == "asynchronous" else sync.bound)
