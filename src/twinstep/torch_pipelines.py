"""Limits of torch.distributed.pipelining: what it refuses, and what it would get wrong without a word.

Torch 2.13. Schedules whose weights' gradients are passes of their own compute them with `torch.autograd.grad`, which
calls no hook of DistributedDataParallel: replicas would never sum them. `fully_shard` is told by the schedule itself.
"""

from __future__ import annotations

from twinstep.partition import Partition

WEIGHTS_APART = ("zero_bubble", "interleaved_zero_bubble", "zero_bubble_v", "dual_pipe_v")
"""Schedules that compute gradients of weights in passes of their own."""
_IN_ROUNDS = ("interleaved_one_forward_one_backward", "zero_bubble", "interleaved_zero_bubble")


def limit_of_torch(partition: Partition) -> str:
    """Say why torch cannot run a partition's pipeline, with the remedy; empty where it can.

    >>> limit_of_torch(Partition(pipeline=4, microbatches=2))
    'torch runs one_forward_one_backward with at least partition.pipeline (4) microbatches, not 2'
    """
    pipeline, microbatches, schedule = partition.pipeline, partition.microbatches, partition.schedule
    if pipeline == 1:
        return ""
    if schedule == "one_forward_one_backward" and microbatches < pipeline:
        return f"torch runs {schedule} with at least partition.pipeline ({pipeline}) microbatches, not {microbatches}"
    if schedule == "dual_pipe_v" and microbatches < 2 * pipeline:
        return (
            f"torch runs {schedule} with at least 2 x partition.pipeline ({pipeline}) microbatches, not {microbatches}"
        )
    rounds = max(1, microbatches // pipeline)
    if schedule in _IN_ROUNDS and microbatches % rounds:
        return f"torch runs {schedule} with a multiple of {rounds} microbatches, not {microbatches}"
    if schedule in WEIGHTS_APART and partition.has_plain_replicas and partition.sharding in ("none", "optimizer"):
        return (
            f"DistributedDataParallel does not see the gradients of schedule {schedule}: set partition.sharding to "
            "parameters, or partition.schedule to one_forward_one_backward"
        )
    return ""
