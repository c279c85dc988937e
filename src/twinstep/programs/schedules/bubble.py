"""Bubble: the part of a step for which the ranks of a pipeline must idle, by the closed form of its schedule.

`rounds` derives the forms. They hold where stages are equal, messages take no time, and nothing else is waited for.
The V-shaped schedules have forms for particular times alone (`v_shaped`), so none is given.
"""

from __future__ import annotations

from typing import NamedTuple

from twinstep.degrees import V_SHAPED
from twinstep.partition import Partition


class PassTimes(NamedTuple):
    """How long the passes of a chunk take, in seconds; a whole backward pass counts as `inputs_s`."""

    forward_s: float
    inputs_s: float
    weights_s: float


def bubble_share(partition: Partition, times: PassTimes) -> float | None:
    """Give the idle part of each rank's step, as a fraction; None where the schedule has no closed form.

    For zero-bubble schedules whose gradients of weights take longest it is a lower bound.

    >>> bubble_share(Partition(pipeline=4, microbatches=8), PassTimes(1.0, 2.0, 0.0))  # 3 / (8 + 3)
    0.2727272727272727
    """
    ranks, chunks, microbatches = partition.pipeline, partition.chunks, partition.microbatches
    work_s = chunks * microbatches * sum(times)
    if partition.schedule in V_SHAPED:
        return None
    if "zero_bubble" in partition.schedule:
        if microbatches < ranks:
            return None
        forward_s, inputs_s, weights_s = times
        idle_s = (ranks - 1) * max(forward_s + inputs_s - weights_s, forward_s, inputs_s)
    else:
        missing = max(0, ranks - microbatches)
        idle_s = (ranks - 1 + (chunks - 1) * missing) * sum(times)
    return idle_s / (idle_s + work_s) if work_s else None
