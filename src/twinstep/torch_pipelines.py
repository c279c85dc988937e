"""Limits of torch.distributed.pipelining: what it refuses beyond `degrees`, and what it would get wrong without a word.

Torch 2.13. Schedules whose weights' gradients are passes of their own compute them with `torch.autograd.grad`, which
calls no hook of DistributedDataParallel: replicas would never sum them. `fully_shard` is told by the schedule itself.
"""

from __future__ import annotations

from twinstep.partition import Partition

WEIGHTS_APART = ("zero_bubble", "interleaved_zero_bubble", "zero_bubble_v", "dual_pipe_v")
"""Schedules that compute gradients of weights in passes of their own."""


def limit_of_torch(partition: Partition) -> str:
    """Say why torch cannot run a partition's pipeline, with the remedy; empty where it can.

    >>> limit_of_torch(Partition(pipeline=4, microbatches=2))
    'torch runs one_forward_one_backward with 4 microbatches at least, not 2: set partition.microbatches to 4'
    """
    pipeline, microbatches, schedule = partition.pipeline, partition.microbatches, partition.schedule
    if pipeline == 1:
        return ""
    if schedule == "one_forward_one_backward" and microbatches < pipeline:
        return (
            f"torch runs {schedule} with {pipeline} microbatches at least, not {microbatches}: set "
            f"partition.microbatches to {pipeline}"
        )
    rounds = max(1, microbatches // pipeline)
    if schedule == "zero_bubble" and microbatches % rounds:
        return (
            f"torch runs {schedule} in {rounds} equal rounds, which {microbatches} microbatches do not fill: set "
            f"partition.microbatches to a multiple of {rounds}, e.g. {(rounds + 1) * pipeline}"
        )
    if schedule in WEIGHTS_APART and partition.has_plain_replicas:
        return (
            f"DistributedDataParallel does not see the gradients of schedule {schedule}: set partition.sharding to "
            "parameters, or partition.schedule to one_forward_one_backward"
        )
    return ""
