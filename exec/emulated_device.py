"""An emulated device: the modelled time passes, communication is real, and what is learnt is computed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch.distributed as dist

from twinstep.effects import Collective, Compute, Learn, Observe, Transfer, Wait
from twinstep.exec.device import CpuRank
from twinstep.exec.idle_thread import IdleThread
from twinstep.exec.lifelines import Lifelines, begun_or_refused, is_of_a_death
from twinstep.exec.pending import Pending, PendingAnnounced, PendingWatched, now_ns

_LATE_NS = 100_000
"""How late a sleep ends, about: it is that much shorter, and the program spins for what is left, if anything is."""


class EmulatedDevice(CpuRank):
    """An accelerator that is not there: its queue passes the modelled time, communication is real.

    Each computation starts when the one before it ends, or when the wait before it is over. The program runs ahead
    and sleeps only where it must have caught up: before it communicates, to synchronize and at the end of a step.
    """

    def __init__(
        self,
        begin: Callable[[Collective | Transfer], dist.Work],
        compute_s: Callable[[Compute], float],
        pace: Callable[[int], float],
        *,
        lifelines: Lifelines | None,
    ) -> None:
        """Let computations take `compute_s` times the `pace` of the step.

        With `lifelines`, messages fail whose other end dies; without, that ends the run.
        """
        super().__init__(begin)
        self._lifelines = lifelines
        self._is_patient = lifelines is not None
        self._compute_s = compute_s
        self._pace_of = pace
        self._pace = 1.0
        self._seconds: dict[int, tuple[Compute, float]] = {}
        self._free_ns = now_ns()
        self._arrived: SimpleQueue[PendingAnnounced] = SimpleQueue()
        self._expected = 0
        self._learning = IdleThread()

    def begin_step(self, step: int) -> None:
        """Note the beginning of a step; the device is idle."""
        super().begin_step(step)
        self._free_ns = self._step_begin_ns
        self._pace = self._pace_of(step)

    def end_step(self) -> None:
        """Let the device finish, and note the end of the step."""
        self._catch_up()
        super().end_step()

    def compute(self, effect: Compute) -> None:
        """Queue the modelled time."""
        known = self._seconds.get(id(effect))
        if known is None:
            known = self._seconds[id(effect)] = (effect, self._compute_s(effect))
        start_ns = self._free_ns
        self._free_ns += round(known[1] * self._pace * 1e9)
        self._note(effect.operation, effect.phase, start_ns, self._free_ns)

    def issue(self, effect: Collective | Transfer) -> Pending[Any]:
        """Begin the communication once the device has done what comes before it."""
        self._catch_up()
        if self._lifelines is None or isinstance(effect, Collective):
            return super().issue(effect)
        start_ns = now_ns()
        return self._pending(effect, begun_or_refused(self._begin, effect), start_ns)

    def wait(self, effect: Wait) -> None:
        """Keep the device idle until the communication is complete."""
        self._catch_up()
        pending: Pending[Any] = effect.handle  # type: ignore[assignment]
        self._complete(pending)
        self._go_on(pending)

    def _complete(self, pending: Pending[Any]) -> None:
        """Block until a communication is complete, or has failed. Raises RuntimeError where nobody may die."""
        try:
            pending.wait()
        except RuntimeError as error:
            if self._lifelines is None or not is_of_a_death(error):
                raise
            pending.failed = True

    def next(self) -> Pending[Any]:
        """Keep the device idle until an announced receive is complete, or has failed."""
        if not self._expected:
            raise RuntimeError("the program waits for a message, and has announced none")
        self._expected -= 1
        self._catch_up()
        pending = self._arrived.get()
        self._complete(pending)
        self._go_on(pending)
        return pending

    def _go_on(self, pending: Pending[Any]) -> None:
        """Let the device go on after a wait, and note both."""
        start_ns = max(self._free_ns, pending.start_ns)  # until it was issued, the host was late
        self._free_ns = max(start_ns, now_ns())
        self._note(pending.effect.wait_operation, "exposed_communication", start_ns, self._free_ns)
        if not pending.failed:
            self._records.append(pending.record())

    def _pending(self, effect: Collective | Transfer, work: dist.Work, start_ns: int) -> Pending[Any]:
        if isinstance(effect, Collective):
            return super()._pending(effect, work, start_ns)
        if effect.kind == "recv" and not effect.announced and self._lifelines is None:
            return Pending(effect, work, self._step, start_ns)
        watch = self._watch(effect.lane, effect.kind, effect.peer)
        if self._lifelines is not None:
            self._lifelines.hold(effect, watch)
        if not effect.announced:
            return PendingWatched(effect, work, self._step, start_ns, watch)
        self._expected += 1
        return PendingAnnounced(effect, work, self._step, start_ns, watch, self._arrived)

    def synchronize(self) -> None:
        """Let the modelled time pass."""
        self._catch_up()

    def learn(self, effect: Learn) -> float | None:
        """Do it beside the modelled time."""
        return self._learning.do(effect.work)

    def observe(self, effect: Observe) -> None:
        """Note a value, at the time of the device."""
        self._observed.append((self._step, max(self._free_ns, now_ns()), effect.name, effect.value))

    def _catch_up(self) -> None:
        remaining_ns = self._free_ns - now_ns()
        if remaining_ns > _LATE_NS:
            time.sleep((remaining_ns - _LATE_NS) * 1e-9)
        while now_ns() < self._free_ns:
            pass
