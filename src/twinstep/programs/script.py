"""Script: what a rank does in a step, as data: effects in order, and which of them it waits for where.

    do(compute), begin(sum), do(compute), wait(sum)

A script is made once and carried out in every step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, Literal, NamedTuple

from twinstep.effects import Collective, Compute, Effect, Transfer, Wait

Communication = Collective | Transfer


class Line(NamedTuple):
    """An effect, and what is done with it."""

    verb: Literal["do", "begin", "wait"]
    effect: Compute | Communication


def do(effect: Compute) -> Line:
    """Compute."""
    return Line("do", effect)


def begin(effect: Communication) -> Line:
    """Begin a communication, and go on."""
    return Line("begin", effect)


def wait(effect: Communication) -> Line:
    """Wait for a communication that has begun: the same object."""
    return Line("wait", effect)


def finish(effect: Communication) -> list[Line]:
    """Begin a communication and wait for it."""
    return [begin(effect), wait(effect)]


def perform(script: Iterable[Line]) -> Generator[Effect, Any, None]:
    """Carry a script out."""
    handles = {}
    for verb, effect in script:
        if verb == "do":
            yield effect
        elif verb == "begin":
            handles[id(effect)] = yield effect
        else:
            yield Wait(handles.pop(id(effect)))
