"""Ranks: a program, interpreted effect by effect, as a SimPy process.

Two kinds of device compute in two ways. A *host* device is a core of its host: computing is an activity on the host's
cores, the program goes on when it is done, and each effect also costs the dispatch that was calibrated. A *queued*
device (an accelerator, or an emulated one) takes kernels from a queue: each starts when the one before it has ended,
or when the wait before it is over, and the program is free meanwhile; it catches up with its device where it must, to
communicate, to synchronize or to end a step. A queued device needs nothing of the host's cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import simpy

from twinstep.costs import DeviceCosts, compute_s
from twinstep.effects import Collective, Compute, Effect, Mark, Next, Observe, Program, Synchronize, Transfer, Wait
from twinstep.profile import HostOverheads
from twinstep.sim.communication import End, Meeting
from twinstep.sim.fluid import Fluid, Load
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Observation, Span

Events = Generator[simpy.Event, Any, None]
Issue = Callable[[int, int, Collective | Transfer, float], Meeting | End]
"""Lets a rank join a communication: rank, step, effect, time of the call in seconds."""


class Records(NamedTuple):
    """What ranks write down."""

    spans: list[Span]
    observations: list[Observation]


class _Rank:
    """What both kinds have in common: position, records, costs."""

    def __init__(
        self,
        env: simpy.Environment,
        rank: int,
        records: Records,
        issue: Issue,
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
        self._spans, self._observations = records
        self._join = issue
        self._costs = costs
        self._pace_of = pace
        self._pace = 1.0
        self._announced: dict[Meeting | End, None] = {}
        self._arrived: deque[Meeting | End] = deque()
        self._arrival = env.event()
        self._listens = False
        self._step = 0
        self._step_begin_s = 0.0
        self._seconds: dict[int, tuple[Compute, float]] = {}

    def _advance(self, program: Program, result: Meeting | End | None) -> Effect | None:
        """Send a result into the program; give its next effect, or None at its end."""
        try:
            effect = self.last = program.send(result)
        except StopIteration:
            return None
        self.effects += 1
        return effect

    def _compute_s(self, effect: Compute) -> float:
        """Look an effect's seconds up; programs yield the same objects again and again."""
        known = self._seconds.get(id(effect))
        if known is None:
            known = self._seconds[id(effect)] = (effect, compute_s(effect, self._costs()))
        return known[1]

    def _record(self, effect: Compute, start_s: float, end_s: float) -> None:
        self._spans.append(Span(self._rank, self._step, COMPUTE_LANE, effect.operation, effect.phase, start_s, end_s))

    def _record_wait(self, meeting: Meeting | End, start_s: float, end_s: float) -> None:
        name = meeting.effect.wait_operation
        self._spans.append(Span(self._rank, self._step, COMPUTE_LANE, name, "exposed_communication", start_s, end_s))

    def _issue(self, effect: Collective | Transfer, call_s: float) -> Meeting | End:
        """Join a communication; of an announced one, note the arrival."""
        meeting = self._join(self._rank, self._step, effect, call_s)
        if type(effect) is Transfer and effect.announced:
            self._announced[meeting] = None
            meeting.complete.callbacks.append(lambda _: self._arrive(meeting))
        return meeting

    def _arrive(self, meeting: Meeting | End) -> None:
        del self._announced[meeting]
        self._arrived.append(meeting)
        if not self._arrival.triggered:
            self._arrival.succeed()

    def _next(self) -> Generator[simpy.Event, Any, Meeting | End]:
        """Give the announced communication that was complete first."""
        if not self._arrived:
            self._arrival = self._env.event()
            self._listens = True
            yield self._arrival
            self._listens = False
        return self._arrived.popleft()

    def _met(self, effect: Wait | Next) -> Generator[simpy.Event, Any, Meeting | End]:
        """Give the communication that an effect waits for, once it is complete."""
        if isinstance(effect, Next):
            return (yield from self._next())
        meeting: Meeting | End = effect.handle  # type: ignore[assignment]
        yield from self._await(meeting)
        return meeting

    def hangs(self) -> bool:
        """Tell whether the rank waits for something that others have not joined."""
        if self._listens:
            return not any(meeting.begun for meeting in self._announced)
        return self.waits_for is not None and not self.waits_for.begun

    def _observe(self, effect: Observe, time_s: float) -> None:
        self._observations.append(Observation(self._rank, self._step, time_s, effect.name, effect.value))

    def _await(self, meeting: Meeting | End) -> Events:
        if not meeting.complete.processed:
            self.waits_for = meeting
            yield meeting.complete
            self.waits_for = None

    def _mark(self, effect: Mark) -> None:
        now_s = self._env.now
        if effect.event == "step_begin":
            self._step, self._step_begin_s = effect.step, now_s
            self._pace = self._pace_of(effect.step)
        else:
            self._spans.append(Span(self._rank, self._step, STEP_LANE, "step", "step", self._step_begin_s, now_s))


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
            effect = self._advance(program, result)
            result = None
            if type(effect) is Compute:
                yield from self._compute(effect)
            elif type(effect) is Collective or type(effect) is Transfer:
                call_s = self._env.now
                yield self._work(self._overheads.launch_s)
                result = self._issue(effect, call_s)
            elif type(effect) is Wait:
                yield from self._wait(effect)
            elif type(effect) is Next:
                start_s = self._env.now
                yield self._work(self._overheads.wait_s)
                result = yield from self._next()
                self._record_wait(result, start_s, self._env.now)
            elif type(effect) is Observe:
                self._observe(effect, self._env.now)
            elif type(effect) is Mark:
                self._mark(effect)
            elif type(effect) is Synchronize:
                continue  # the program never runs ahead
            elif effect is None:
                return
            else:
                raise TypeError(f"no such effect: {effect!r}")

    def _work(self, work_s: float) -> simpy.Event:
        done = self._env.event()
        self._fluid.start(work_s, self._cores, done.succeed, cap=1.0)
        return done

    def _compute(self, effect: Compute) -> Events:
        start_s = self._env.now
        kernels_s, dispatch_s = self._compute_s(effect), self._overheads.compute_s
        yield self._work(kernels_s + dispatch_s)
        start_s += (self._env.now - start_s) * dispatch_s / (kernels_s + dispatch_s)
        if self._pace > 1:
            yield self._env.timeout((self._pace - 1) * (self._env.now - start_s))
        self._record(effect, start_s, self._env.now)

    def _wait(self, effect: Wait) -> Events:
        start_s = self._env.now
        yield self._work(self._overheads.wait_s)
        meeting: Meeting | End = effect.handle  # type: ignore[assignment]
        yield from self._await(meeting)
        self._record_wait(meeting, start_s, self._env.now)


class QueuedRank(_Rank):
    """A rank whose device works through a queue of its own."""

    def run(self, program: Program) -> Events:
        """Interpret the program to its end."""
        result: Meeting | End | None = None
        device_free_s = self._env.now
        env = self._env
        while True:
            effect = self._advance(program, result)
            result = None
            if type(effect) is Compute:
                start_s = device_free_s
                device_free_s += self._compute_s(effect) * self._pace
                self._record(effect, start_s, device_free_s)
                continue
            if type(effect) is Observe:
                self._observe(effect, max(device_free_s, env.now))
                continue
            if device_free_s > env.now:
                yield env.timeout(device_free_s - env.now)
            if type(effect) is Collective or type(effect) is Transfer:
                result = self._issue(effect, env.now)
            elif type(effect) is Wait or type(effect) is Next:
                meeting = yield from self._met(effect)
                result = meeting if type(effect) is Next else None
                self._record_wait(meeting, device_free_s, max(device_free_s, env.now))
                device_free_s = max(device_free_s, env.now)
            elif type(effect) is Mark:
                self._mark(effect)
            elif type(effect) is Synchronize:
                continue  # it has caught up
            elif effect is None:
                return
            else:
                raise TypeError(f"no such effect: {effect!r}")
