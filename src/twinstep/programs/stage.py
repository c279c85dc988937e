"""Stage: the part of a GPT that one rank computes in one chunk of a pipeline.

Blocks are dealt to stages in consecutive runs whose lengths differ by one at most; the first stage also has the
embedding, the last the head and the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from twinstep.plan import Plan
from twinstep.programs.parts import Part, Parts
from twinstep.programs.placement import shards
from twinstep.programs.sharers import sharers_of
from twinstep.programs.wrapped import wrapped
from twinstep.workloads import Gpt, GptShape, Model, with_optimizer


def stage_parts(plan: Plan, stage: int, expert: int = 0) -> tuple[Part, ...]:
    """List the parts of a stage, for one microbatch, as one of the ranks that share the experts computes them."""
    made = Parts(microbatch_shape(plan), plan.partition, plan.run.seed, expert)
    parts = [part for block in _blocks(plan)[stage] for part in made.block(block)]
    if stage == 0:
        parts.insert(0, made.embedding())
    if stage == stages(plan) - 1:
        parts += made.ending()
    if plan.shares_tensors_by_torch:
        return tuple(wrapped(part, plan.partition) for part in parts)
    return tuple(parts)


def stages(plan: Plan) -> int:
    """Count the stages of the pipeline: one a chunk of each of its ranks."""
    return plan.partition.pipeline * plan.partition.chunks


def first_layer(plan: Plan, stage: int) -> int:
    """Count the parts of all earlier stages: the embedding, and two halves a block."""
    return 1 + 2 * _blocks(plan)[stage].start if stage else 0


def microbatch_shape(plan: Plan) -> GptShape:
    """Give the shape of the whole model for one microbatch, as one rank of a stage computes it."""
    workload, partition = plan.training, plan.partition
    if not isinstance(workload, Gpt):
        raise TypeError(f"only a GPT has microbatches, not {workload.kind}")
    samples = workload.batch // partition.data // partition.microbatches
    return workload.shape(samples, partition.tensor, partition.context, partition.sequence_parallel)


def stage_model(plan: Plan, parts: Sequence[Part]) -> Model:
    """Describe a stage as a model of its own, with the optimizer's update of the rank's shard of its parameters."""
    layers = tuple(part.layer for part in parts)
    partition = plan.partition
    return with_optimizer(layers, (), plan.training.optimizer, lambda p: sharers_of(p, partition).shard_ranks)


def _blocks(plan: Plan) -> tuple[range, ...]:
    return shards(microbatch_shape(plan).blocks, stages(plan))
