"""Slots: the passes of which schedules consist, and what a rank holds between them.

A chunk's activations of a microbatch are held from its `F` to its `B`. Where the halves of the backward pass are apart,
`I` needs all of them, but `W` only the inputs of layers with weights, and the gradients of these layers' outputs, which
`I` leaves behind. Between the two, then, something else is held, usually less (Qi et al., "Zero bubble pipeline
parallelism", 2023, count M_B before and M_W after).
"""

from __future__ import annotations

from collections.abc import Sequence
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


def most_in_flight(slots: Sequence[Slot]) -> int:
    """Count the activations that a rank holds at most: one for each chunk and microbatch, from F to B or to W.

    >>> most_in_flight([Slot("F", 0), Slot("F", 1), Slot("B", 0), Slot("B", 1)])
    2
    >>> most_in_flight([Slot("F", 0), Slot("I", 0), Slot("F", 1), Slot("W", 0), Slot("B", 1)])
    2
    """
    ones = [1] * (1 + max(slot.chunk for slot in slots))
    return most_held(slots, ones, ones)


def most_held(slots: Sequence[Slot], sizes: Sequence[int], sizes_after_inputs: Sequence[int]) -> int:
    """Add up what a rank holds at most, in the unit of the sizes.

    A microbatch counts as `sizes[chunk]` from F to B or I, and as `sizes_after_inputs[chunk]` from I to W.

    >>> most_held([Slot("F", 0), Slot("I", 0), Slot("F", 1), Slot("W", 0), Slot("B", 1)], [10], [4])
    14
    """
    held = most = 0
    for slot in slots:
        size, after = sizes[slot.chunk], sizes_after_inputs[slot.chunk]
        held += {"F": size, "B": -size, "I": after - size, "W": -after}[slot.direction]
        most = max(most, held)
    return most
