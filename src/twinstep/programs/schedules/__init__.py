"""Schedules: in which order the ranks of a pipeline compute their passes of microbatches.

- `slot`: a pass
- `places`: which rank has which stage
- `rounds`: GPipe, 1F1B, interleaved 1F1B, zero bubble, interleaved zero bubble
- `v_shaped`: ZB-V and DualPipeV
- `bubble`: the closed forms of idle time

A schedule says nothing of messages, which follow: F of a stage needs F of the stage before; B or I needs its own F, and
B or I of the stage after; W needs its own I. All orders are those of torch.distributed.pipelining (torch 2.13), where
zero bubble is its interleaved zero bubble with one chunk. In torch I of stage 0 computes nothing, as nobody wants
gradients of its inputs, and W of stage 0 is a whole backward pass.
"""

from collections.abc import Callable, Mapping

from twinstep.partition import Partition
from twinstep.programs.schedules.bubble import PassTimes, bubble_share
from twinstep.programs.schedules.places import Place, place_of, stage_of
from twinstep.programs.schedules.rounds import (
    gpipe,
    interleaved_one_forward_one_backward,
    interleaved_zero_bubble,
    one_forward_one_backward,
    zero_bubble,
)
from twinstep.programs.schedules.slot import Direction, Slot, computed
from twinstep.programs.schedules.v_shaped import dual_pipe_v, zero_bubble_v

__all__ = [
    "Direction",
    "PassTimes",
    "Place",
    "Slot",
    "bubble_share",
    "computed",
    "dual_pipe_v",
    "gpipe",
    "interleaved_one_forward_one_backward",
    "interleaved_zero_bubble",
    "one_forward_one_backward",
    "place_of",
    "slots",
    "stage_of",
    "zero_bubble",
    "zero_bubble_v",
]

_INTERLEAVED: Mapping[str, Callable[[int, int, int, int], list[Slot]]] = {
    "interleaved_one_forward_one_backward": interleaved_one_forward_one_backward,
    "interleaved_zero_bubble": interleaved_zero_bubble,
}
_OTHERS: Mapping[str, Callable[[int, int, int], list[Slot]]] = {
    "one_forward_one_backward": one_forward_one_backward,
    "zero_bubble": zero_bubble,
    "zero_bubble_v": zero_bubble_v,
    "dual_pipe_v": dual_pipe_v,
}


def slots(partition: Partition, rank: int) -> list[Slot]:
    """Order the passes of a rank, counted along the pipeline, in one step.

    >>> from twinstep.partition import Partition
    >>> " ".join(map(str, slots(Partition(pipeline=2, microbatches=3), rank=0)))
    'F0 F1 B0 F2 B1 B2'
    """
    degrees = (rank, partition.pipeline, partition.microbatches)
    if partition.schedule == "gpipe":
        return gpipe(partition.microbatches)
    if partition.schedule in _INTERLEAVED:
        return _INTERLEAVED[partition.schedule](*degrees, partition.chunks)
    return _OTHERS[partition.schedule](*degrees)
