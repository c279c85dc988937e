"""Stage: the part of a GPT that one rank of a tensor-parallel group computes in one pipeline stage.

A stage is a list of parts, each computed without communication; what the tensor-parallel ranks sum after a part is
stated with it. Blocks are dealt to stages in consecutive runs whose lengths differ by one at most; the first stage also
has the embedding, the last the head and the loss.

    part          summed after its forward pass     summed after its backward pass
    embedding     the residual stream               nothing
    attention     the residual stream               the residual stream's gradient
    feed-forward  the residual stream               the residual stream's gradient
    head          nothing                           the residual stream's gradient
    loss          three numbers a token             nothing

The three numbers of the loss are the largest logit, the sum of exponentials and the target's logit. Source: Shoeybi et
al., "Megatron-LM", 2019, section 3, and its `vocab_parallel_cross_entropy`.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.kernels import ELEMENT_BYTES
from twinstep.plan import Plan
from twinstep.programs.placement import shards
from twinstep.workloads import (
    Gpt,
    GptShape,
    Layer,
    Model,
    gpt_embedding,
    gpt_halves,
    gpt_head,
    gpt_loss,
    with_optimizer,
)

_NUMBERS_A_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is computed without communication, and the bytes that tensor-parallel ranks sum after it."""

    layer: Layer
    forward_sums_bytes: tuple[int, ...]
    backward_sums_bytes: tuple[int, ...]


def stage_parts(plan: Plan, stage: int) -> tuple[Part, ...]:
    """List the parts of a stage, for one microbatch."""
    shape, stages = microbatch_shape(plan), plan.partition.pipeline
    stream, token = (shape.stream_bytes,), (ELEMENT_BYTES * shape.tokens,)
    parts = [
        Part(half, stream, stream)
        for block in shards(shape.blocks, stages)[stage]
        for half in gpt_halves(shape, block + 1)
    ]
    if stage == 0:
        parts.insert(0, Part(gpt_embedding(shape), stream, ()))
    if stage == stages - 1:
        parts += [Part(gpt_head(shape), (), stream), Part(gpt_loss(shape), token * _NUMBERS_A_TOKEN, ())]
    return tuple(parts)


def first_layer(plan: Plan, stage: int) -> int:
    """Count the parts of all earlier stages: the embedding, and two halves a block."""
    return 1 + 2 * shards(microbatch_shape(plan).blocks, plan.partition.pipeline)[stage].start if stage else 0


def microbatch_shape(plan: Plan) -> GptShape:
    """Give the shape of the whole model for one microbatch, as one tensor-parallel rank computes it."""
    workload = plan.training
    if not isinstance(workload, Gpt):
        raise TypeError(f"only a GPT has microbatches, not {workload.kind}")
    samples = workload.batch // plan.partition.data // plan.partition.microbatches
    return workload.shape(samples, plan.partition.tensor)


def stage_model(plan: Plan, parts: tuple[Part, ...]) -> Model:
    """Describe a stage as a model of its own, with the optimizer's update of its parameters."""
    return with_optimizer(tuple(part.layer for part in parts), (), plan.training.optimizer)
