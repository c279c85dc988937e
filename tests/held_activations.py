"""Activations that a rank holds between the passes of a schedule.

A chunk's activations of a microbatch are held from its `F` to its `B`. Where the halves of the backward pass are apart,
`I` needs all of them, but `W` only the inputs of layers with weights, and the gradients of these layers' outputs, which
`I` leaves behind. Between the two, then, something else is held, usually less (Qi et al., "Zero bubble pipeline
parallelism", 2023, count M_B before and M_W after).
"""

from __future__ import annotations

from collections.abc import Sequence

from twinstep.programs.schedules import Slot


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
