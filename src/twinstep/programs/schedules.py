"""Schedules: in which order a pipeline stage computes its microbatches.

Three stages, four microbatches; `F1` is microbatch 1's forward pass, a dot an idle slot:

    GPipe    stage 0   F0 F1 F2 F3  .  .  .  .  B0 B1 B2 B3
             stage 1    . F0 F1 F2 F3  .  .  B0 B1 B2 B3
             stage 2    .  . F0 F1 F2 F3 B0 B1 B2 B3

    1F1B     stage 0   F0 F1 F2  .  . B0 F3 B1  . B2  . B3
             stage 1    . F0 F1  . B0 F2 B1 F3 B2  . B3
             stage 2    .  . F0 B0 F1 B1 F2 B2 F3 B3

(backward passes drawn as long as forward ones). With p stages and m microbatches the bubble is (p - 1) / (m + p - 1)
of the time in both; 1F1B holds the activations of at most p - s microbatches on stage s, GPipe those of all m.
Sources: Huang et al., "GPipe", 2019; Narayanan et al., "Memory-efficient pipeline-parallel DNN training", 2021.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Slot(NamedTuple):
    """One pass of one microbatch; `F0` is the forward pass of microbatch 0."""

    direction: Literal["F", "B"]
    microbatch: int

    def __str__(self) -> str:
        return f"{self.direction}{self.microbatch}"


def gpipe(microbatches: int) -> list[Slot]:
    """Order the passes of any stage: forward in order, then backward in order.

    >>> " ".join(map(str, gpipe(3)))
    'F0 F1 F2 B0 B1 B2'
    """
    forward = [Slot("F", index) for index in range(microbatches)]
    return forward + [Slot("B", index) for index in range(microbatches)]


def one_forward_one_backward(stage: int, stages: int, microbatches: int) -> list[Slot]:
    """Order the passes of a stage: as many forward passes as stages follow it, then one of each in turn.

    >>> " ".join(map(str, one_forward_one_backward(stage=1, stages=3, microbatches=4)))
    'F0 F1 B0 F2 B1 F3 B2 B3'
    """
    ahead = min(stages - 1 - stage, microbatches)
    slots = [Slot("F", index) for index in range(ahead)]
    for index in range(microbatches):
        if index + ahead < microbatches:
            slots.append(Slot("F", index + ahead))
        slots.append(Slot("B", index))
    return slots


def most_in_flight(slots: list[Slot]) -> int:
    """Count the microbatches whose activations a stage holds at most.

    >>> most_in_flight(gpipe(4)), most_in_flight(one_forward_one_backward(1, 3, 4))
    (4, 2)
    """
    held = most = 0
    for slot in slots:
        held += 1 if slot.direction == "F" else -1
        most = max(most, held)
    return most
