"""Devices: where a rank's effects happen and how their times are taken.

`HostDevice` computes on a core, `EmulatedDevice` lets the modelled time pass instead, `CudaDevice` (in `cuda.py`) uses
a GPU. All of them begin communication asynchronously, on the group's own threads or stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

import torch.distributed as dist

from twinstep.effects import Collective, Compute, Observe, Transfer, Wait
from twinstep.exec.calls import WITHOUT_FUTURE, Joined, begin_in_place
from twinstep.exec.lifelines import Lifelines, begun_or_refused, is_of_a_death
from twinstep.exec.pending import (
    Observed,
    Pending,
    PendingAnnounced,
    PendingCollective,
    PendingWatched,
    Record,
    Watch,
    now_ns,
)
from twinstep.exec.training import Training
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Phase


def begin_bucket(effect: Collective | Transfer, training: Training, groups: Mapping[str, Joined]) -> dist.Work:
    """Begin a round of a bucket: all that programs with real compute send."""
    if not isinstance(effect, Collective) or effect.bucket is None:
        raise TypeError(f"{effect.operation} carries no bucket: its strategy has no executor with real compute")
    return begin_in_place(effect, training.payload(effect.bucket, effect.round or 0), groups[effect.group])


class Device(Protocol):
    """What the engine needs of a device."""

    def begin_step(self, step: int) -> None:
        """Note the beginning of a step."""
        ...

    def end_step(self) -> None:
        """Catch up with the device and note the end of the step."""
        ...

    def compute(self, effect: Compute) -> float | None:
        """Run kernels, or queue them; give the loss where the program is to know it."""
        ...

    def issue(self, effect: Collective | Transfer) -> Any:
        """Begin a communication and give its handle."""
        ...

    def wait(self, effect: Wait) -> None:
        """Let what follows wait for a communication."""
        ...

    def next(self) -> Any:
        """Give the announced receive that was complete first."""
        ...

    def synchronize(self) -> None:
        """Block until the device has done all that it was told to."""
        ...

    def observe(self, effect: Observe) -> None:
        """Note a value."""
        ...

    def records(self) -> list[Record]:
        """Give all spans, once the program has ended."""
        ...

    def observed(self) -> list[Observed]:
        """Give all values that were noted."""
        ...


class _CpuRank:
    """What ranks on this machine's cores have in common: the group's own threads communicate, a clock takes times."""

    def __init__(self, begin: Callable[[Collective | Transfer], dist.Work]) -> None:
        """Let `begin` call torch.distributed."""
        self._begin = begin
        self._watches: dict[object, Watch] = {}
        self._is_patient = False
        self._step = 0
        self._step_begin_ns = 0
        self._records: list[Record] = []
        self._observed: list[Observed] = []

    def begin_step(self, step: int) -> None:
        """Note the beginning of a step."""
        self._step, self._step_begin_ns = step, now_ns()

    def end_step(self) -> None:
        """Note the end of the step."""
        self._records.append((self._step, STEP_LANE, "step", "step", self._step_begin_ns, now_ns(), 0, ""))

    def issue(self, effect: Collective | Transfer) -> Pending[Any]:
        """Begin the communication on the group's threads."""
        start_ns = now_ns()  # before the call: the other ranks may be done before it returns
        work = self._begin(effect)
        if isinstance(effect, Collective) and effect.kind not in WITHOUT_FUTURE:
            return PendingCollective(effect, work, self._step, start_ns)
        return self._pending(effect, work, start_ns)

    def _pending(self, effect: Collective | Transfer, work: dist.Work, start_ns: int) -> Pending[Any]:
        """Have the end of something noted that has no future."""
        return PendingWatched(effect, work, self._step, start_ns, self._watch(effect.lane))

    def _watch(self, *key: object) -> Watch:
        return self._watches.get(key) or self._watches.setdefault(key, Watch(patient=self._is_patient))

    def _note(self, operation: str, phase: Phase, start_ns: int, end_ns: int) -> None:
        self._records.append((self._step, COMPUTE_LANE, operation, phase, start_ns, end_ns, 0, ""))

    def records(self) -> list[Record]:
        """Give all spans."""
        return self._records

    def observe(self, effect: Observe) -> None:
        """Note a value."""
        self._observed.append((self._step, now_ns(), effect.name, effect.value))

    def observed(self) -> list[Observed]:
        """Give all values that were noted."""
        return self._observed


class WithoutMessages:
    """A device whose programs take no messages: those with real compute."""

    def next(self) -> Any:
        """Refuse. Raises TypeError."""
        raise TypeError("programs that take messages have no executor with real compute")


class HostDevice(WithoutMessages, _CpuRank):
    """A core of this machine: computing blocks the program."""

    def __init__(self, training: Training, groups: Mapping[str, Joined], slowdown: float) -> None:
        super().__init__(lambda effect: begin_bucket(effect, training, groups))
        self._training = training
        self._slowdown = slowdown

    def compute(self, effect: Compute) -> float | None:
        """Run the bound torch functions; a slowed-down rank then idles for the rest of its time."""
        start_ns = now_ns()
        loss = self._training.run(effect, self._step)
        if self._slowdown > 1:
            time.sleep((self._slowdown - 1) * (now_ns() - start_ns) * 1e-9)
        self._note(effect.operation, effect.phase, start_ns, now_ns())
        return loss

    def synchronize(self) -> None:
        """Do nothing: computing has blocked the program."""

    def wait(self, effect: Wait) -> None:
        """Block until the collective is complete."""
        start_ns = now_ns()
        pending: Pending[Any] = effect.handle  # type: ignore[assignment]
        pending.wait()
        self._note(effect.operation, "exposed_communication", start_ns, now_ns())
        self._records.append(pending.record())


class EmulatedDevice(_CpuRank):
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

    def observe(self, effect: Observe) -> None:
        """Note a value, at the time of the device."""
        self._observed.append((self._step, max(self._free_ns, now_ns()), effect.name, effect.value))

    def _catch_up(self) -> None:
        remaining_ns = self._free_ns - now_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns * 1e-9)
