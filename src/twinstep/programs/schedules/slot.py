"""Slots: the passes of which schedules consist."""

from __future__ import annotations

from typing import Literal, NamedTuple

Direction = Literal["F", "B", "I", "W"]


class Slot(NamedTuple):
    """One pass of one microbatch through one chunk.

    `F0` is the forward pass of microbatch 0 through chunk 0, `I2.1` is microbatch 2 in chunk 1, and `F3+` a pass that
    is computed with the next one.
    """

    direction: Direction
    """A forward pass, a whole backward pass, its gradients of inputs alone, or its gradients of weights alone."""
    microbatch: int
    chunk: int = 0
    """Which of the rank's chunks."""
    with_next: bool = False
    """Whether the results are passed on together with those of the next slot, as in DualPipe's pairs."""

    def __str__(self) -> str:
        return f"{self.direction}{self.microbatch}{f'.{self.chunk}' * bool(self.chunk)}{'+' * self.with_next}"


def computed(direction: Direction, stage: int) -> Direction | None:
    """Say what a stage computes in a slot; None for nothing.

    The first stage owes nobody gradients of inputs, so its W is a whole backward pass, as in torch.

    >>> computed("W", stage=0), computed("I", stage=0), computed("W", stage=1)
    ('B', None, 'W')
    """
    if stage > 0 or direction in "FB":
        return direction
    return "B" if direction == "W" else None
