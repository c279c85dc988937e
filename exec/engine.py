"""The engine: a rank program, interpreted effect by effect on a device."""

from __future__ import annotations

from typing import Any

from twinstep.effects import Collective, Compute, Mark, Next, Observe, Program, Synchronize, Transfer, Wait
from twinstep.exec.board import Seat
from twinstep.exec.device import Device


def run_program(program: Program, device: Device, seat: Seat) -> None:
    """Run a program to its end, noting on the board what is done."""
    result: Any = None
    step = 0
    send = program.send
    while True:
        try:
            effect = send(result)
        except StopIteration:
            return
        result = None
        if type(effect) is Mark:
            step = effect.step
            seat.note(step, effect.event, blocked=False)
            _mark(effect, device)
        elif type(effect) is Compute:
            seat.note(step, effect.operation, blocked=False)
            result = device.compute(effect)
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
