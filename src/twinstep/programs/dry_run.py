"""A dry run: what a program does in its first steps, without a device or a network."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twinstep.effects import Collective, Communication, Effect, HostCopy, Mark, Next, Program, Transfer


@dataclass(frozen=True, slots=True)
class _Promised:
    """A handle for a communication that nobody carries out."""

    effect: Communication
    failed: bool = False


def first_steps(program: Program, steps: int = 1) -> list[Effect]:
    """List the effects of a program's first steps, or of all that it has, marks included; it is closed then.

    What is announced arrives in the order of the receives; nothing is learnt.
    """
    effects: list[Effect] = []
    arrived: deque[_Promised] = deque()
    effect = next(program)
    while True:
        effects.append(effect)
        if type(effect) is Mark and effect.event == "step_end" and effect.step == steps - 1:
            program.close()
            return effects
        result = _Promised(effect) if isinstance(effect, Collective | Transfer | HostCopy) else None
        if result and isinstance(effect, Transfer) and effect.announced:
            arrived.append(result)
        try:
            effect = program.send(arrived.popleft() if type(effect) is Next else result)
        except StopIteration:
            return effects
