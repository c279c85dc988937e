"""The engine: a rank program, interpreted effect by effect on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from twinstep.effects import Collective, Compute, Learn, Mark, Next, Observe, Program, Synchronize, Transfer, Wait
from twinstep.exec.board import Seat
from twinstep.exec.device import Device
from twinstep.exec.pending import Observed, Record
from twinstep.exec.training import Training
from twinstep.memory_use import MemoryUse
from twinstep.programs import SharedMemory, Strategy, lower, own_names


class Engine(Protocol):
    """What a rank does between joining the others and leaving them."""

    def run(self) -> None:
        """Do all steps."""
        ...

    def records(self) -> list[Record]:
        """Give all spans, with the names of their groups."""
        ...

    def observed(self) -> list[Observed]:
        """Give all values that were noted."""
        ...

    def losses(self) -> Tensor | None:
        """Give this rank's part of the loss of every step (steps,); None where there is none."""
        ...

    def memory(self) -> MemoryUse | None:
        """Measure what the rank holds, in steps after which there is nothing more to record; None where it cannot."""
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """Give the parameters by name, once every rank is done; nothing where there are none."""
        ...


class ProgramEngine:
    """Interprets a rank program."""

    def __init__(self, programs: Strategy, rank: int, device: Device, training: Training | None, seat: Seat) -> None:
        self._programs = programs
        self._rank = rank
        self._device = device
        self._training = training
        self._seat = seat

    def run(self) -> None:
        """Run the program to its end."""
        run_program(self._programs.program(self._rank), self._device, self._seat)

    def records(self) -> list[Record]:
        """Give all spans; programs name kinds of groups, of which the rank has its own."""
        name_of = own_names(self._programs.groups)
        return [(*record[:7], name_of(record[7], self._rank) if record[7] else "") for record in self._device.records()]

    def observed(self) -> list[Observed]:
        """Give all values that were noted."""
        return self._device.observed()

    def losses(self) -> Tensor | None:
        """Give this rank's part of the loss of every step; None where compute is emulated."""
        return self._training.losses() if self._training else None

    def memory(self) -> MemoryUse | None:
        """Measure what the rank holds; nothing where compute is emulated, or workers share their parameters."""
        if self._training is None or isinstance(self._programs, SharedMemory):
            return None
        plan = self._programs.plan
        one_step = plan.model_copy(update={"run": plan.run.model_copy(update={"steps": 1, "warmup": 0})})
        programs = lower(one_step)

        def step() -> None:
            run_program(programs.program(self._rank), self._device, self._seat, first_step=plan.total_steps)

        return self._training.memory(step)

    def parameters(self) -> Mapping[str, Tensor]:
        """Give the parameters by name; nothing where compute is emulated."""
        return self._training.parameters() if self._training else {}


def run_program(program: Program, device: Device, seat: Seat, first_step: int = 0) -> None:
    """Run a program to its end, noting on the board what is done, in steps that count from `first_step`."""
    result: Any = None
    step = first_step
    send = program.send
    while True:
        try:
            effect = send(result)
        except StopIteration:
            return
        result = None
        if type(effect) is Mark:
            step = first_step + effect.step
            seat.note(step, effect.event, blocked=False)
            _mark(effect, device)
        elif type(effect) is Compute or type(effect) is Learn:
            seat.note(step, effect.operation, blocked=False)
            result = device.learn(effect) if isinstance(effect, Learn) else device.compute(effect)
        elif type(effect) is Collective or type(effect) is Transfer:
            seat.note(step, effect.operation, blocked=False)
            result = device.issue(effect)
        elif type(effect) is Wait:
            seat.note(step, effect.operation, blocked=True)
            device.wait(effect)
        elif type(effect) is Next:
            seat.note(step, effect.operation, blocked=True)
            result = device.next()
        elif type(effect) is Synchronize:
            seat.note(step, effect.operation, blocked=False)
            device.synchronize()
        elif type(effect) is Observe:
            device.observe(effect)
        else:
            raise TypeError(f"no such effect: {effect!r}")


def _mark(effect: Mark, device: Device) -> None:
    if effect.event == "step_begin":
        device.begin_step(effect.step)
    else:
        device.end_step()
