"""Communication: the ranks of a group meet, the library's worker threads take up what they issued, all go on.

A collective begins when its last rank has issued it and a worker thread of the group is free; the library takes
collectives of a group up in the order of issue. It is complete on all ranks at the same moment. A message begins when
both its ends have been issued, as in gloo and NCCL, which wait for the receiver before they send; messages of one
channel are taken up in order. One communicator may stand for many: then each of its ranks stands for as many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import simpy

from twinstep.effects import Collective, Transfer
from twinstep.errors import RunError
from twinstep.sim.fluid import Activity, Fluid, Load


class Part(NamedTuple):
    """A part of a communication: a delay, then work on resources."""

    delay_s: float
    work: float
    loads: Sequence[Load]
    cap: float
    crowded_rate: float | None


Prices = Callable[[Collective | Transfer], Sequence[Part]]
"""Gives what an effect costs from now on."""


class Meeting:
    """One communication, from its first rank's call to its completion; the handle that programs hold."""

    __slots__ = ("begun", "complete", "effect", "end_s", "issued")

    def __init__(self, effect: Collective | Transfer, complete: simpy.Event) -> None:
        self.effect = effect
        self.complete = complete
        self.begun = False
        """Whether all have joined it."""
        self.end_s = float("nan")
        """When it was complete, in seconds of the simulation."""
        self.issued: list[tuple[int, int, float, Collective | Transfer]] = []
        """For each rank that issued it: rank, step, time of the call in seconds, its effect."""


class _Running:
    """A communication under way, in one of its parts."""

    __slots__ = ("activity", "index", "meeting", "parts")

    def __init__(self, meeting: Meeting, parts: Sequence[Part]) -> None:
        self.meeting = meeting
        self.parts = parts
        self.index = -1
        self.activity: Activity | None = None


class Communicator:
    """One group or channel: who must join, and what they issued in turn."""

    def __init__(
        self,
        env: simpy.Environment,
        fluid: Fluid,
        prices: Prices,
        slots: int,
        members: Sequence[tuple[int, str]],
        on_complete: Callable[[Meeting], None],
    ) -> None:
        """Expect each of `members`, a rank and its part in it (`send`, `recv`, or the same for all)."""
        self._env = env
        self._fluid = fluid
        self._prices = prices
        self._slots = slots
        self._on_complete = on_complete
        self._meetings: deque[Meeting] = deque()
        self._first = 0
        self._issued = dict.fromkeys(members, 0)
        self._waiting: deque[Meeting] = deque()
        self._running: dict[_Running, None] = {}

    def issue(self, rank: int, step: int, effect: Collective | Transfer, call_s: float) -> Meeting:
        """Let a rank, which called at `call_s`, join its next communication; the last one to come lets it begin."""
        member = (rank, effect.kind if type(effect) is Transfer else "")
        position = self._issued[member] - self._first
        self._issued[member] += 1
        if position == len(self._meetings):
            self._meetings.append(Meeting(effect, self._env.event()))
        meeting = self._meetings[position]
        _check_same(rank, effect, meeting.effect)
        meeting.issued.append((rank, step, call_s, effect))
        if len(meeting.issued) == len(self._issued):
            self._meetings.popleft()
            self._first += 1
            meeting.begun = True
            self._waiting.append(meeting)
            self._begin_waiting()
        return meeting

    def unfinished(self) -> Mapping[str, list[int]]:
        """Name the communications that some ranks have not joined, and the ranks that have."""
        return {str(m.effect.operation): [rank for rank, *_ in m.issued] for m in self._meetings}

    def reprice(self) -> None:
        """Let what is under way go on over the resources that the prices name now."""
        for running in list(self._running):
            running.parts = self._prices(running.meeting.effect)
            if running.activity is not None:
                self._work(running, self._fluid.cancel(running.activity))

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            meeting = self._waiting.popleft()
            running = _Running(meeting, self._prices(meeting.effect))
            self._running[running] = None
            self._next_part(running)

    def _next_part(self, running: _Running) -> None:
        running.activity = None
        running.index += 1
        if running.index == len(running.parts):
            self._finish(running)
            return
        part = running.parts[running.index]
        if part.delay_s > 0:
            self._env.timeout(part.delay_s).callbacks.append(lambda _: self._work(running, part.work))
        else:
            self._work(running, part.work)

    def _work(self, running: _Running, work: float) -> None:
        part = running.parts[running.index]
        running.activity = self._fluid.start(
            work, part.loads, lambda: self._next_part(running), cap=part.cap, crowded_rate=part.crowded_rate
        )

    def _finish(self, running: _Running) -> None:
        del self._running[running]
        meeting = running.meeting
        meeting.end_s = self._env.now
        self._on_complete(meeting)
        meeting.complete.succeed()
        self._begin_waiting()


def _check_same(rank: int, effect: Collective | Transfer, other: Collective | Transfer) -> None:
    same = effect == other
    if isinstance(effect, Transfer) and isinstance(other, Transfer):
        same = (effect.lane, effect.size_bytes) == (other.lane, other.size_bytes)
    if not same:
        raise RunError(f"rank {rank} issues {effect.operation} where others issue {other.operation}")
