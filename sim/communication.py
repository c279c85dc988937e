"""Communication: the ranks of a group meet, the library's worker threads take up what they issued, all go on.

A collective begins when its last rank has issued it and a worker thread of the group is free; the library takes
collectives of a group up in the order of issue. It is complete on all ranks at the same moment. A message begins when
both its ends have been issued, as in gloo and NCCL, which wait for the receiver before they send; messages of one
channel are taken up in order. One communicator may stand for many: then each of its ranks stands for as many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import simpy

from twinstep.effects import Communication, HostCopy, Transfer
from twinstep.errors import RunError
from twinstep.sim.contents import deliver
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import End, Meeting, Streams
from twinstep.sim.running import Prices, Running


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
        *,
        one_connection: bool = False,
        streams: Streams | None = None,
    ) -> None:
        """Expect each of `members`, a rank and its part in it (`send`, `recv`, or the same for all).

        With `one_connection` all that is under way shares its links as one flow would. `streams` are those of a
        channel whose receiver's notice waits behind what it sends.
        """
        self._one_connection = one_connection
        self._streams = streams
        self._env = env
        self._fluid = fluid
        self._has_buckets = fluid.has_buckets
        self._prices = prices
        self._slots = slots
        self._on_complete = on_complete
        self._meetings: deque[Meeting] = deque()
        self._first = 0
        self._issued = dict.fromkeys(members, 0)
        self._waiting: deque[Meeting] = deque()
        self._running: dict[Running, None] = {}
        self._is_broken = False

    def issue(self, rank: int, step: int, effect: Communication, call_s: float) -> Meeting | End:
        """Let a rank, which called at `call_s`, join its next communication; the last one to come lets it begin."""
        if self._is_broken:
            return self._failed(rank, step, effect, call_s)
        member = (rank, effect.kind if type(effect) is Transfer else "")
        position = self._issued[member] - self._first
        self._issued[member] += 1
        if position == len(self._meetings):
            meeting = Meeting(effect, self._env.event())
            self._meetings.append(meeting)
        else:
            meeting = self._meetings[position]
            _check_same(rank, effect, meeting.effect)
        meeting.issued.append((rank, step, call_s, effect))
        if self._streams and member[1] == "recv":
            meeting.ready_after = self._streams.back.before()
        if type(effect) is HostCopy and effect.after is not None:
            meeting.ready_after = [effect.after.complete]  # type: ignore[attr-defined]
        if len(meeting.issued) == len(self._issued):
            self._meetings.popleft()
            self._first += 1
            meeting.begun = True
            self._after(meeting.ready_after, lambda: self._send(meeting))
        return End(meeting, effect, meeting.complete) if type(effect) is Transfer else meeting

    def _after(self, events: Sequence[simpy.Event], go_on: Callable[[], None]) -> None:
        """Go on when all events have happened; at once where they have."""
        if all(event.processed for event in events):
            go_on()
        else:
            simpy.AllOf(self._env, events).callbacks.append(lambda _: go_on())

    def _send(self, meeting: Meeting) -> None:
        """Let a message whose receiver is ready take its turn on the connection."""
        before = self._streams.forth.send(meeting) if self._streams else ()
        self._after(before, lambda: self._begin(meeting))

    def _begin(self, meeting: Meeting) -> None:
        if self._is_broken:
            self._fail(meeting, 0.0)
            return
        self._waiting.append(meeting)
        self._begin_waiting()

    def includes(self, rank: int) -> bool:
        """Tell whether a rank takes part."""
        return any(member == rank for member, _ in self._issued)

    def break_off(self) -> None:
        """Let all that is under way fail, and all that follows: a member died, and the others hear of it."""
        self._is_broken = True
        for running in self._running:
            self._interrupt(running)
        meetings = [*(running.meeting for running in self._running), *self._waiting, *self._meetings]
        for pending in (self._running, self._waiting, self._meetings):
            pending.clear()
        for meeting in meetings:
            self._fail(meeting, self._prices(meeting.effect)[0].delay_s)

    def _failed(self, rank: int, step: int, effect: Communication, call_s: float) -> Meeting | End:
        """Give a communication that fails at once."""
        meeting = Meeting(effect, self._env.event())
        meeting.issued.append((rank, step, call_s, effect))
        self._fail(meeting, 0.0)
        return End(meeting, effect, meeting.complete) if type(effect) is Transfer else meeting

    def _fail(self, meeting: Meeting, after_s: float) -> None:
        meeting.begun = meeting.failed = True

        def tell(_: simpy.Event) -> None:
            meeting.complete.succeed()

        self._env.timeout(after_s).callbacks.append(tell)

    def unfinished(self) -> Mapping[str, list[int]]:
        """Name the communications that some ranks have not joined, and the ranks that have."""
        return {str(m.effect.operation): [rank for rank, *_ in m.issued] for m in self._meetings}

    def reprice(self) -> None:
        """Let what is under way go on over the resources that the prices name now."""
        for running in list(self._running):
            running.parts = self._prices(running.meeting.effect)
            running.part = running.parts[running.index]
            if running.activity is not None:
                self._work(running, self._interrupt(running) + running.rest)

    def _begin_waiting(self) -> None:
        began = False
        while self._waiting and len(self._running) < self._slots:
            meeting = self._waiting.popleft()
            running = Running(meeting, self._prices(meeting.effect))
            self._running[running] = None
            began = True
            self._next_part(running)
        if began and self._one_connection:
            self._share_anew()

    def _next_part(self, running: Running) -> None:
        running.activity = None
        running.index += 1
        if running.index == len(running.parts):
            self._finish(running)
            return
        part = running.part = running.parts[running.index]
        if part.delay_s > 0:
            self._env.timeout(part.delay_s).callbacks.append(lambda _: self._work(running, part.work))
        else:
            self._work(running, part.work)
        if self._one_connection and running.index:
            self._share_anew()

    def _work(self, running: Running, work: float) -> None:
        """Do the work of a part, as soon as its links let anything through."""
        if running.meeting.failed:
            return
        if not self._has_buckets:
            running.loads = running.part.loads
            self._do(running, work)
            return
        wait_s = self._fluid.overdrawn_s(running.part.loads)
        if wait_s > 0:
            self._env.timeout(wait_s).callbacks.append(lambda _: self._pass(running, work))
        else:
            self._pass(running, work)

    def _pass(self, running: Running, work: float) -> None:
        """Do first what links let through at once, then the rest."""
        if running.meeting.failed:
            return
        burst, running.loads = self._fluid.take_burst(work, running.part.loads)
        running.rest = work - burst if burst else 0.0
        if not burst:
            running.loads = running.part.loads
        self._do(running, burst or work)

    def _do(self, running: Running, work: float) -> None:
        """Start an activity; of several on one connection each has its part of what one flow would get."""
        part = running.part
        share, cap = running.share, running.cap = self._share_and_cap(running)
        loads = running.loads
        if share > 1:
            loads = [Load(resource, weight / share, own / share) for resource, weight, own in loads]
        running.activity = self._fluid.start(
            work * share, loads, lambda: self._go_on(running), cap=cap, crowded_rate=part.crowded_rate
        )

    def _go_on(self, running: Running) -> None:
        rest, running.rest = running.rest, 0.0
        if rest:
            running.loads = running.part.loads
            self._do(running, rest)
            return
        part = running.part
        self._fluid.count(part.answers, part.work + part.tail)
        if part.tail:
            self._fluid.start(part.tail, part.loads, lambda: None, cap=part.cap)
        self._next_part(running)

    def _interrupt(self, running: Running) -> float:
        """End the activity; give the work that remains of it."""
        activity, running.activity = running.activity, None
        return self._fluid.cancel(activity) / running.share if activity else 0.0

    def _share_and_cap(self, running: Running) -> tuple[float, float]:
        """Give how many times as long something takes for sharing its connections, and its largest rate meanwhile.

        Messages take turns, whole ones; where notices wait behind them, connections stand idle in between.
        """
        part, share = running.part, 1.0
        if self._one_connection and part.crowded_rate is None:
            share = sum(other.size_bytes for other in self._running) / running.size_bytes
        rate_share, direction, opposed_rate = part.notices
        if direction and any(other.part.notices.direction == -direction for other in self._running):
            rate_share *= opposed_rate
        cap = part.cap * share
        return share, min(cap, rate_share * self._fluid.alone_rate(running.loads)) if rate_share < 1 else cap

    def _share_anew(self) -> None:
        """Let what is under way share its connections with what there is now."""
        for running in self._running:
            if running.activity is not None and (running.share, running.cap) != self._share_and_cap(running):
                self._do(running, self._interrupt(running))

    def _finish(self, running: Running) -> None:
        del self._running[running]
        meeting = running.meeting
        meeting.end_s = self._env.now
        if meeting.effect.contents is not None:
            deliver([effect for *_, effect in sorted(meeting.issued, key=itemgetter(0))])
        self._on_complete(meeting)
        meeting.complete.succeed()
        self._begin_waiting()
        if self._one_connection:
            self._share_anew()


def _check_same(rank: int, effect: Communication, other: Communication) -> None:
    if type(effect) is Transfer and type(other) is Transfer:
        same = effect.lane == other.lane and effect.size_bytes == other.size_bytes
    else:
        same = effect == other
    if not same:
        raise RunError(f"rank {rank} issues {effect.operation} where others issue {other.operation}")
