"""Devices: where a rank's effects happen and how their times are taken.

`HostDevice` computes on a core, `EmulatedDevice` (in `emulated_device.py`) lets the modelled time pass instead,
`CudaDevice` (in `cuda.py`) uses a GPU. All of them begin communication asynchronously, on the group's own threads or
stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch.distributed as dist

from twinstep.effects import Collective, Compute, Learn, Observe, Transfer, Wait
from twinstep.exec.calls import WITHOUT_FUTURE, Joined, begin_in_place
from twinstep.exec.pending import (
    Observed,
    Pending,
    PendingCollective,
    PendingWatched,
    Record,
    Watch,
    now_ns,
)
from twinstep.exec.reference import Reference
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

    def learn(self, effect: Learn) -> float | None:
        """Do what a program learns by, and give what it gives."""
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


class CpuRank:
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


class RealCompute:
    """A device that really computes: programs that take messages, or yield `Learn`, do not run on it."""

    def next(self) -> Any:
        """Refuse. Raises TypeError."""
        raise TypeError("programs that take messages have no executor with real compute")

    def learn(self, effect: Learn) -> float | None:
        """Refuse. Raises TypeError."""
        raise TypeError("programs that learn beside modelled times have no executor with real compute")


class HostDevice(RealCompute, CpuRank):
    """A core of this machine: computing blocks the program."""

    def __init__(self, training: Training, groups: Mapping[str, Joined], slowdown: float) -> None:
        super().__init__(lambda effect: begin_bucket(effect, training, groups))
        self._training = training
        self._slowdown = slowdown
        self._reference = Reference()

    def begin_step(self, step: int) -> None:
        """Note how fast the core is, then the beginning of a step."""
        self._observed += self._reference.due(step)
        super().begin_step(step)

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
