"""Script: what a rank does in a step, as data: effects in order, and which of them it waits for where.

    do(compute), begin(sum), do(compute), wait(sum)

A copy to the host may begin after a communication that has begun before it; nobody waits for that.

A script is made once and carried out in every step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from twinstep.effects import Communication, Compute, Effect, Handle, HostCopy, Wait


class Line(NamedTuple):
    """An effect, and what is done with it."""

    verb: Literal["do", "begin", "wait"]
    effect: Compute | Communication
    after: Communication | None = None
    """What a copy to the host follows: the same object as that of its own line."""


def do(effect: Compute) -> Line:
    """Compute."""
    return Line("do", effect)


def begin(effect: Communication) -> Line:
    """Begin a communication, and go on."""
    return Line("begin", effect)


def follow(effect: HostCopy, after: Communication) -> Line:
    """Begin a copy as soon as a communication is complete, and go on."""
    return Line("begin", effect, after)


def wait(effect: Communication) -> Line:
    """Wait for a communication that has begun: the same object."""
    return Line("wait", effect)


def finish(effect: Communication) -> list[Line]:
    """Begin a communication and wait for it."""
    return [begin(effect), wait(effect)]


def perform(script: Iterable[Line]) -> Generator[Effect, Any, None]:
    """Carry a script out."""
    handles: dict[int, Handle] = {}
    for verb, effect, after in script:
        if verb == "do":
            yield effect
        elif verb == "begin":
            if isinstance(effect, HostCopy) and after is not None:
                handles[id(effect)] = yield replace(effect, after=handles[id(after)])
            else:
                handles[id(effect)] = yield effect
        else:
            yield Wait(handles.pop(id(effect)))
