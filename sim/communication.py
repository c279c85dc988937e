"""Communication: the ranks of a group meet, the library's worker threads take up what they issued, all go on.

A collective begins when its last rank has issued it and a worker thread of the group is free; the library takes
collectives of a group up in the order of issue. It is complete on all ranks at the same moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import simpy

from twinstep.effects import Collective
from twinstep.errors import RunError
from twinstep.sim.fluid import Fluid
from twinstep.sim.libraries import Gloo


class Meeting:
    """One collective of one group, from its first rank's call to its completion; the handle that programs hold."""

    __slots__ = ("complete", "effect", "end_s", "issued")

    def __init__(self, effect: Collective, complete: simpy.Event) -> None:
        self.effect = effect
        self.complete = complete
        self.end_s = float("nan")
        """When it was complete, in seconds of the simulation."""
        self.issued: list[tuple[int, int, float]] = []
        """For each rank that issued it: rank, step, time of the call in seconds."""


class Communicator:
    """One group: its ranks, and the collectives that they issued in turn."""

    def __init__(
        self,
        env: simpy.Environment,
        fluid: Fluid,
        library: Gloo,
        ranks: tuple[int, ...],
        on_complete: Callable[[Meeting], None],
    ) -> None:
        self._env = env
        self._fluid = fluid
        self._library = library
        self._ranks = ranks
        self._on_complete = on_complete
        self._meetings: deque[Meeting] = deque()
        self._first = 0
        self._issued = dict.fromkeys(ranks, 0)
        self._waiting: deque[Meeting] = deque()
        self._busy = 0

    def issue(self, rank: int, step: int, effect: Collective, call_s: float) -> Meeting:
        """Let a rank, which called at `call_s`, join its next collective; the last one to come lets it begin."""
        position = self._issued[rank] - self._first
        self._issued[rank] += 1
        if position == len(self._meetings):
            self._meetings.append(Meeting(effect, self._env.event()))
        meeting = self._meetings[position]
        if effect != meeting.effect:
            raise RunError(f"rank {rank} issues {effect.operation} where others issue {meeting.effect.operation}")
        meeting.issued.append((rank, step, call_s))
        if len(meeting.issued) == len(self._ranks):
            self._meetings.popleft()
            self._first += 1
            self._waiting.append(meeting)
            self._begin_waiting()
        return meeting

    def unfinished(self) -> Mapping[str, list[int]]:
        """Name the collectives that some ranks have not joined, and the ranks that have."""
        return {str(m.effect.operation): [rank for rank, _, _ in m.issued] for m in self._meetings}

    def _begin_waiting(self) -> None:
        while self._waiting and self._busy < self._library.slots:
            self._busy += 1
            meeting = self._waiting.popleft()
            cost = self._library.cost(meeting.effect, self._ranks)
            self._fluid.start(
                cost.elapsed_s,
                cost.weights,
                lambda m=meeting: self._finish(m),  # type: ignore[misc]
                crowded_rate=cost.crowded_rate,
            )

    def _finish(self, meeting: Meeting) -> None:
        self._busy -= 1
        meeting.end_s = self._env.now
        self._on_complete(meeting)
        meeting.complete.succeed()
        self._begin_waiting()
