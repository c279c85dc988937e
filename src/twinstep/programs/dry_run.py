"""A dry run: what a program does in its first step, without a device or a network."""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.effects import Collective, Effect, Mark, Program, Transfer


@dataclass(frozen=True, slots=True)
class _Promised:
    """A handle for a communication that nobody carries out."""

    effect: Collective | Transfer


def first_step(program: Program) -> list[Effect]:
    """List the effects of a program's first step, its marks included; the program is closed then."""
    effects: list[Effect] = []
    effect = next(program)
    while True:
        effects.append(effect)
        if type(effect) is Mark and effect.event == "step_end":
            program.close()
            return effects
        effect = program.send(_Promised(effect) if isinstance(effect, Collective | Transfer) else None)
