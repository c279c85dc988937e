"""Ranks: a program, interpreted effect by effect, as a SimPy process.

Two kinds of device compute in two ways. A *host* device is a core of its host: computing is an activity on the host's
cores, the program goes on when it is done, and each effect also costs the dispatch that was calibrated. A *queued*
device (an accelerator, or an emulated one) takes kernels from a queue: each starts when the one before it has ended,
or when the wait before it is over, and the program is free meanwhile; it catches up with its device where it must, to
communicate or to end a step. A queued device needs nothing of the host's cores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import simpy

from twinstep.costs import DeviceCosts, compute_s
from twinstep.effects import Collective, Compute, Effect, Mark, Program, Transfer, Wait
from twinstep.profile import HostOverheads
from twinstep.sim.communication import End, Meeting
from twinstep.sim.fluid import Fluid, Load
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Span

Events = Generator[simpy.Event, Any, None]
Issue = Callable[[int, int, Collective | Transfer, float], Meeting | End]
"""Lets a rank join a communication: rank, step, effect, time of the call in seconds."""


class _Rank:
    """What both kinds have in common: position, records, costs."""

    def __init__(
        self,
        env: simpy.Environment,
        rank: int,
        spans: list[Span],
        issue: Issue,
        costs: Callable[[], DeviceCosts],
        slowdown: float,
    ) -> None:
        self.effects = 0
        self.last: Effect | None = None
        """The effect that was begun last: what a stuck rank hangs on."""
        self.waits_for: Meeting | End | None = None
        self._env = env
        self._rank = rank
        self._spans = spans
        self._issue = issue
        self._costs = costs
        self._slowdown = slowdown
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

    def _record(self, effect: Compute | Wait, start_s: float, end_s: float) -> None:
        phase = effect.phase if type(effect) is Compute else "exposed_communication"
        self._spans.append(Span(self._rank, self._step, COMPUTE_LANE, effect.operation, phase, start_s, end_s))

    def _await(self, meeting: Meeting | End) -> Events:
        if not meeting.complete.processed:
            self.waits_for = meeting
            yield meeting.complete
            self.waits_for = None

    def _mark(self, effect: Mark) -> None:
        now_s = self._env.now
        if effect.event == "step_begin":
            self._step, self._step_begin_s = effect.step, now_s
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
                result = self._issue(self._rank, self._step, effect, call_s)
            elif type(effect) is Wait:
                yield from self._wait(effect)
            elif type(effect) is Mark:
                self._mark(effect)
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
        if self._slowdown > 1:
            yield self._env.timeout((self._slowdown - 1) * (self._env.now - start_s))
        self._record(effect, start_s, self._env.now)

    def _wait(self, effect: Wait) -> Events:
        start_s = self._env.now
        yield self._work(self._overheads.wait_s)
        meeting: Meeting | End = effect.handle  # type: ignore[assignment]
        yield from self._await(meeting)
        self._record(effect, start_s, self._env.now)


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
                device_free_s += self._compute_s(effect) * self._slowdown
                self._record(effect, start_s, device_free_s)
                continue
            if device_free_s > env.now:
                yield env.timeout(device_free_s - env.now)
            if type(effect) is Collective or type(effect) is Transfer:
                result = self._issue(self._rank, self._step, effect, env.now)
            elif type(effect) is Wait:
                meeting: Meeting | End = effect.handle  # type: ignore[assignment]
                yield from self._await(meeting)
                self._record(effect, device_free_s, max(device_free_s, env.now))
                device_free_s = max(device_free_s, env.now)
            elif type(effect) is Mark:
                self._mark(effect)
            elif effect is None:
                return
            else:
                raise TypeError(f"no such effect: {effect!r}")
