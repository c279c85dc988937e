"""Ranks: a program, interpreted effect by effect, as a SimPy process.

Two kinds of device compute in two ways. A *host* device is a core of its host: computing is an activity on the host's
cores, the program goes on when it is done, and each effect also costs the dispatch that was calibrated. A *queued*
device (an accelerator, or an emulated one) takes kernels from a queue: each starts when the one before it has ended,
or when the wait before it is over, and the program is free meanwhile; it catches up with its device where it must, to
communicate, to synchronize or to end a step. A queued device needs nothing of the host's cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from typing import Any, NamedTuple

import simpy

from twinstep.costs import DeviceCosts, compute_s
from twinstep.effects import (
    Collective,
    Communication,
    Compute,
    Effect,
    HostCompute,
    HostCopy,
    Learn,
    Mark,
    Next,
    Observe,
    Program,
    Synchronize,
    Transfer,
    Wait,
)
from twinstep.profile import HostOverheads
from twinstep.sim.communication import Communicator
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import End, Meeting
from twinstep.sim.records import Records
from twinstep.spans import Kind
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Observation

Events = Generator[simpy.Event, Any, None]
Connect = Callable[[int, Communication], Communicator]
"""Finds what a rank joins to communicate: rank, effect."""


class _Rank:
    """What both kinds have in common: position, records, costs."""

    def __init__(
        self,
        env: simpy.Environment,
        rank: int,
        records: Records,
        connect: Connect,
        costs: Callable[[], DeviceCosts],
        pace: Callable[[int], float],
    ) -> None:
        """Let computations of a step take `pace` times as long as they cost."""
        self.effects = 0
        self.last: Effect | None = None
        """The effect that was begun last: what a stuck rank hangs on."""
        self.waits_for: Meeting | End | None = None
        self._env = env
        self._rank = rank
        self._records = records
        self._rows = records.rows[rank]
        self._whole_step = records.kind(Kind(STEP_LANE, "step", "step"))
        self._waits: dict[str, int] = {}
        """The kinds of waits, by operation."""
        self._connect = connect
        self._lines: dict[Hashable, Communicator] = {}
        self._costs = costs
        self._pace_of = pace
        self._pace = 1.0
        self._announced: dict[Meeting, None] = {}
        self._arrived: deque[End] = deque()
        self._arrival = env.event()
        self._listens = False
        self._step = 0
        self._step_begin_s = 0.0
        self._known: dict[int, tuple[float, int, Compute]] = {}

    def _looked_up(self, effect: Compute) -> tuple[float, int, Compute]:
        """Give an effect's seconds and the kind of its spans; programs yield the same objects again and again."""
        known = self._known.get(id(effect))
        if known is None:
            kind = self._records.kind(Kind(COMPUTE_LANE, effect.operation, effect.phase))
            known = self._known[id(effect)] = (compute_s(effect, self._costs()), kind, effect)
        return known

    def _record_wait(self, meeting: Meeting | End, start_s: float, end_s: float) -> None:
        name = meeting.effect.wait_operation
        kind = self._waits.get(name)
        if kind is None:
            kind = self._waits[name] = self._records.kind(Kind(COMPUTE_LANE, name, "exposed_communication"))
        self._rows.append((kind, self._step, start_s, end_s))

    def _issue(self, effect: Communication, call_s: float) -> Meeting | End:
        """Join a communication; of an announced one, note the arrival."""
        line = effect.line
        communicator = self._lines.get(line)
        if communicator is None:
            communicator = self._lines[line] = self._connect(self._rank, effect)
        handle = communicator.issue(self._rank, self._step, effect, call_s)
        if type(handle) is End and handle.effect.announced:
            end = handle
            self._announced[end.meeting] = None
            end.complete.callbacks.append(lambda _: self._arrive(end))
        return handle

    def _arrive(self, end: End) -> None:
        del self._announced[end.meeting]
        self._arrived.append(end)
        if not self._arrival.triggered:
            self._arrival.succeed()

    def _await(self, effect: Wait | Next) -> Generator[simpy.Event, Any, Meeting | End]:
        """Give what an effect waits for, when it is complete: of all that is announced, what was complete first."""
        if isinstance(effect, Next):
            if not self._arrived:
                self._arrival = self._env.event()
                self._listens = True
                yield self._arrival
                self._listens = False
            return self._arrived.popleft()
        meeting: Meeting | End = effect.handle  # type: ignore[assignment]
        if not meeting.complete.processed:
            self.waits_for = meeting
            yield meeting.complete
            self.waits_for = None
        return meeting

    def hangs(self) -> bool:
        """Tell whether the rank waits for something that others have not joined."""
        if self._listens:
            return not any(meeting.begun for meeting in self._announced)
        return self.waits_for is not None and not self.waits_for.begun

    def _aside(self, effect: Observe | Learn, time_s: float) -> float | None:
        """Do what takes no simulated time, and give what it gives."""
        if isinstance(effect, Learn):
            return effect.work()
        self._records.observe(Observation(self._rank, self._step, time_s, effect.name, effect.value))
        return None

    def _mark(self, effect: Effect, now_s: float) -> None:
        if type(effect) is Synchronize:  # for which the program has caught up by now
            return
        if type(effect) is not Mark:
            raise TypeError(f"no such effect: {effect!r}")
        if effect.event == "step_begin":
            self._step, self._step_begin_s = effect.step, now_s
            self._pace = self._pace_of(effect.step)
        else:
            self._rows.append((self._whole_step, self._step, self._step_begin_s, now_s))


class HostRank(_Rank):
    """A rank that computes on a core of its host."""

    def __init__(self, *common: Any, fluid: Fluid, cores: Load, overheads: HostOverheads) -> None:
        super().__init__(*common)
        self._fluid = fluid
        self._cores = [cores]
        self._overheads = overheads

    def run(self, program: Program) -> Events:
        """Interpret the program to its end."""
        result: Meeting | End | None = None
        while True:
            try:
                effect = self.last = program.send(result)
            except StopIteration:
                return
            self.effects += 1
            result = None
            if type(effect) is Compute:
                yield from self._compute(effect)
            elif type(effect) is Collective or type(effect) is Transfer:
                call_s = self._env.now
                yield self._work(self._overheads.launch_s)
                result = self._issue(effect, call_s)
                if type(effect) is Collective and effect.blocks_host:
                    yield from self._block(result)
            elif type(effect) is Wait and _has_blocked(effect):
                continue
            elif type(effect) is Wait or type(effect) is Next:
                start_s = self._env.now
                yield self._work(self._overheads.wait_s)
                meeting = yield from self._await(effect)
                result = meeting if type(effect) is Next else None
                self._record_wait(meeting, start_s, self._env.now)
            elif type(effect) is Observe:
                self._aside(effect, self._env.now)
            else:
                self._mark(effect, self._env.now)

    def _work(self, work_s: float) -> simpy.Event:
        done = self._env.event()
        self._fluid.start(work_s, self._cores, done.succeed, cap=1.0)
        return done

    def _block(self, meeting: Meeting | End) -> Events:
        """Let nothing else happen until a communication is complete."""
        start_s = self._env.now
        self.waits_for = meeting
        yield meeting.complete
        self.waits_for = None
        self._record_wait(meeting, start_s, self._env.now)

    def _compute(self, effect: Compute) -> Events:
        start_s = self._env.now
        (kernels_s, kind, _), dispatch_s = self._looked_up(effect), self._overheads.compute_s
        yield self._work(kernels_s + dispatch_s)
        start_s += (self._env.now - start_s) * dispatch_s / (kernels_s + dispatch_s)
        if self._pace > 1:
            yield self._env.timeout((self._pace - 1) * (self._env.now - start_s))
        self._rows.append((kind, self._step, start_s, self._env.now))


class HostShare(NamedTuple):
    """What a rank has of its host's processor."""

    fluid: Fluid
    load: Load
    """Of all that is there."""
    costs: DeviceCosts


def _has_blocked(wait: Wait) -> bool:
    effect = wait.handle.effect
    return type(effect) is Collective and effect.blocks_host


class QueuedRank(_Rank):
    """A rank whose device works through a queue of its own."""

    def __init__(self, *common: Any, host: HostShare | None) -> None:
        super().__init__(*common)
        self._host = host

    def run(self, program: Program) -> Events:
        """Interpret the program to its end."""
        env, rows = self._env, self._rows
        result: Meeting | End | float | None = None
        now_s = device_free_s = env.now
        while True:
            try:
                effect = self.last = program.send(result)
            except StopIteration:
                break
            self.effects += 1
            result = None
            if type(effect) is Compute:
                start_s = device_free_s
                kernels_s, kind, _ = self._looked_up(effect)
                device_free_s += kernels_s * self._pace
                rows.append((kind, self._step, start_s, device_free_s))
                continue
            if type(effect) is Observe or type(effect) is Learn:
                result = self._aside(effect, max(device_free_s, now_s))
                continue
            if device_free_s > now_s:
                yield env.timeout(device_free_s - now_s)
                now_s = env.now
            if type(effect) is Transfer or type(effect) is Collective or type(effect) is HostCopy:
                result = self._issue(effect, now_s)
            elif type(effect) is HostCompute:
                start_s = now_s
                yield self._on_host(effect)
                now_s = device_free_s = env.now
                kind = self._records.kind(Kind(COMPUTE_LANE, effect.operation, effect.phase))
                rows.append((kind, self._step, start_s, now_s))
            elif type(effect) is Wait or type(effect) is Next:
                meeting = yield from self._await(effect)
                result = meeting if type(effect) is Next else None
                now_s = env.now
                start_s, device_free_s = device_free_s, max(device_free_s, now_s)
                self._record_wait(meeting, start_s, device_free_s)
            else:
                self._mark(effect, now_s)
        if device_free_s > now_s:
            yield env.timeout(device_free_s - now_s)

    def _on_host(self, effect: HostCompute) -> simpy.Event:
        """Let the host's processor compute; others of the host have their part of it meanwhile."""
        if self._host is None:
            raise TypeError(f"no host updates anything in this plan: {effect!r}")
        done = self._env.event()
        fluid, load, costs = self._host
        fluid.start(compute_s(effect, costs), [load], done.succeed, cap=1.0)
        return done
