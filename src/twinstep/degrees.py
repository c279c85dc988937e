"""Degrees: why a model cannot be cut as a partition asks."""

from __future__ import annotations

from collections.abc import Iterator

from twinstep.partition import Partition
from twinstep.workloads import Gpt

INTERLEAVED = ("interleaved_one_forward_one_backward", "interleaved_zero_bubble")
V_SHAPED = ("zero_bubble_v", "dual_pipe_v")


def misfits(partition: Partition, workload: Gpt) -> Iterator[str]:
    """Say what does not fit, with the remedy; nothing where all does."""
    yield from _of_tensors(partition, workload)
    yield from _of_data(partition, workload)
    yield from _of_the_pipeline(partition, workload)
    if partition.offload != "none":
        yield from _of_offload(partition, workload)


def _of_tensors(partition: Partition, workload: Gpt) -> Iterator[str]:
    tensor, context = partition.tensor, partition.context
    shape = workload.shape(1)
    inner = shape.feed_forward, workload.shared_expert
    sizes = (workload.heads, shape.kv_heads, *inner, workload.vocabulary)
    names = ("heads", "kv_heads", "feed_forward", "shared_expert", "vocabulary")
    for name, size in zip(names, sizes, strict=True):
        if size % tensor:
            yield (
                f"partition.tensor ({tensor}) must divide workload.{name} ({size}): "
                f"set partition.tensor to a divisor of {size}"
            )
    if context > 1 and workload.context % (2 * context):
        yield (
            f"partition.context ({context}): twice as many must divide workload.context ({workload.context}), since "
            "each rank has two runs of a sample's tokens: set partition.context to a divisor of half of them"
        )
    if partition.sequence_parallel and tensor == 1:
        yield (
            "partition.sequence_parallel needs partition.tensor of 2 or more: set partition.sequence_parallel to false"
        )
    tokens = workload.context // context
    if partition.sequence_parallel and tokens % tensor:
        yield (
            f"partition.sequence_parallel: partition.tensor ({tensor}) must divide the {tokens} tokens of a rank: "
            f"set partition.tensor to a divisor of {tokens}"
        )


def _of_data(partition: Partition, workload: Gpt) -> Iterator[str]:
    data, copies, expert = partition.data, partition.sharding_copies, partition.expert
    if partition.sharding != "none" and data * partition.context == 1:
        yield (
            f"partition.sharding {partition.sharding} needs partition.data or partition.context of 2 or more: "
            "set partition.sharding to none"
        )
    if partition.sharding == "none" and copies > 1:
        yield (
            f"partition.sharding_copies ({copies}) needs partition.sharding, e.g. parameters: "
            "set partition.sharding_copies to 1"
        )
    if data % copies:
        yield (
            f"partition.sharding_copies ({copies}) must divide partition.data ({data}): "
            f"set partition.sharding_copies to a divisor of {data}"
        )
    if 1 < copies == data * partition.context:
        yield (
            f"partition.sharding_copies ({copies}) leaves each copy to one rank, with nothing to share: "
            "lower partition.sharding_copies, or set partition.sharding to none"
        )
    if data % expert:
        yield (
            f"partition.expert ({expert}) must divide partition.data ({data}): "
            f"set partition.expert to a divisor of {data}"
        )
    if workload.is_mixture and workload.experts % expert:
        yield (
            f"partition.expert ({expert}) must divide workload.experts ({workload.experts}): "
            f"set partition.expert to a divisor of {workload.experts}"
        )
    if expert > 1 and copies > 1:
        yield (
            f"partition.expert ({expert}) needs partition.sharding_copies of 1, not {copies}: "
            "set partition.sharding_copies to 1"
        )
    if workload.shared_expert and partition.sequence_parallel:
        yield (
            f"partition.sequence_parallel needs workload.shared_expert of 0, not {workload.shared_expert}: "
            "set partition.sequence_parallel to false"
        )
    if expert > 1 and not workload.is_mixture:
        yield f"partition.expert ({expert}) needs workload.experts of 2 or more: set partition.expert to 1"


def _of_the_pipeline(partition: Partition, workload: Gpt) -> Iterator[str]:
    pipeline, chunks, schedule = partition.pipeline, partition.chunks, partition.schedule
    if schedule in INTERLEAVED and chunks == 1:
        yield f"partition.schedule {schedule} needs partition.chunks of 2 or more: set partition.chunks to 2"
    if schedule in V_SHAPED and chunks != 2:
        yield f"partition.schedule {schedule} needs partition.chunks of 2: set partition.chunks to 2"
    if schedule not in INTERLEAVED + V_SHAPED and chunks > 1:
        yield (
            f"partition.chunks ({chunks}) needs a partition.schedule with chunks: "
            f"set partition.schedule to {INTERLEAVED[0]}, for example"
        )
    yield from _of_the_rounds(partition)
    if pipeline * chunks > workload.layers:
        product = f" x partition.chunks ({chunks})" if chunks > 1 else ""
        yield (
            f"partition.pipeline ({pipeline}){product} is more than workload.layers ({workload.layers}): "
            f"lower partition.pipeline{' or partition.chunks' if chunks > 1 else ''}"
        )


def _of_the_rounds(partition: Partition) -> Iterator[str]:
    pipeline, microbatches, schedule = partition.pipeline, partition.microbatches, partition.schedule
    rounds = max(1, microbatches // pipeline)
    if schedule in INTERLEAVED and microbatches % rounds:
        yield (
            f"partition.schedule {schedule} has {rounds} equal rounds with partition.pipeline ({pipeline}): "
            f"partition.microbatches ({microbatches}) must be a multiple of {rounds}: set partition.microbatches to "
            f"{(rounds + 1) * pipeline}"
        )
    if schedule == "dual_pipe_v" and microbatches < 2 * pipeline:
        yield (
            f"partition.schedule {schedule} needs twice as many microbatches as ranks: partition.microbatches "
            f"({microbatches}) must be at least 2 x partition.pipeline ({pipeline}): set partition.microbatches "
            f"to {2 * pipeline}"
        )


def _of_offload(partition: Partition, workload: Gpt) -> Iterator[str]:
    offload = f"partition.offload {partition.offload}"
    for name in ("context", "expert", "sharding_copies"):
        if getattr(partition, name) > 1:
            yield f"{offload} needs partition.{name} of 1, not {getattr(partition, name)}: set partition.{name} to 1"
    if workload.is_mixture:
        yield f"{offload} needs a workload without experts: set partition.offload to none"
    if partition.schedule in V_SHAPED:
        yield (
            f"{offload} needs a schedule that has the ends of the model on two ranks, not {partition.schedule}: set "
            f"partition.schedule, e.g. to {INTERLEAVED[0]}"
        )
    if workload.optimizer.kind == "sgd":
        yield f"{offload} needs an optimizer with a state: set workload.optimizer.kind to adamw or momentum"
