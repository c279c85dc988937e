"""Accounts: what the ranks of a plan hold, for the ledger: of stages of a pipeline, and of whole replicas.

Gradients are as torch's wrappers have them: alone, autograd makes them in the first backward pass and the optimizer's
`zero_grad` gives them up. DistributedDataParallel's buckets hold them all the time (`gradient_as_bucket_view`); those
of microbatches before the last (`no_sync`) are apart, and are added to the last one's on the way into the buckets.
fully_shard makes those of a unit, adds up those of microbatches unsharded, and keeps shards when they are reduced.
Tensor-parallel replicas need `replicate`, since the former takes no DTensors: gradients are as alone, and it sums them
in a copy of a unit, which is left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from twinstep.kernels import ELEMENT_BYTES
from twinstep.plan import Plan
from twinstep.programs.footprint import Footprint, footprint_of_layer, footprint_of_part
from twinstep.programs.parts import Part
from twinstep.programs.sharers import shard_bytes, sharers, sharers_of
from twinstep.programs.stage import first_layer, microbatch_shape, stage_model, stage_parts, stages
from twinstep.workloads import Model, Parameter, is_expert

Gradients = Literal["grown", "bucketed", "scattered"]
"""Gradients appear with the first backward pass; lie in buckets that are always there; or appear with a backward pass,
and leave shards behind when they are reduced."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is computed as one graph: all of a model, or a stage."""

    first_layer: int
    footprints: Sequence[Footprint]
    parameters: Sequence[tuple[Parameter, ...]]
    """Those of each part."""
    blocks: Sequence[int | None]
    """The block of each part."""
    begins: bool
    """Whether it is the first stage."""
    output_bytes: int
    """What the last part gives, logits or what the next stage computes with: kept until the backward pass is over."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a rank holds all the time, and how the rest comes and goes."""

    chunks: Sequence[Chunk]
    optimizer_state_bytes: int
    optimizer_scratch_bytes: int
    """What its update needs meanwhile."""
    gradients: Gradients
    shard_ranks: int = 1
    """How many ranks share parameters and gradients, where these are scattered."""
    expert_shard_ranks: int = 1
    """How many share those of experts."""
    blocks: int = 0
    """Of the whole model."""
    keeps_units: bool = False
    """Whether units are kept until the last microbatch's backward pass."""
    gathers_twice: bool = False
    """Whether units are given up between forward and backward pass."""
    restores_blocks: bool = False
    """Whether the backward pass of a block begins with all of its forward pass."""
    gives_up_copied: bool = False
    """Whether gradients are given up when the host has a copy of them."""

    def ranks_of(self, parameter: Parameter) -> int:
        """Count the ranks that share a parameter and its gradient."""
        return self.expert_shard_ranks if is_expert(parameter) else self.shard_ranks


def replica_account(plan: Plan, model: Model) -> Account:
    """Describe a rank that has all of a model and an equal part of the samples."""
    layers = model.layers
    outputs = [kernel for layer in layers[:-1] for kernel in layer.forward if kernel.name == "linear_forward"]
    rows, _, width = outputs[-1].shape
    chunk = Chunk(
        first_layer=0,
        footprints=[footprint_of_layer(layer) for layer in layers],
        parameters=[layer.parameters for layer in layers],
        blocks=[None for _ in layers],
        begins=True,
        output_bytes=ELEMENT_BYTES * rows * width,
    )
    return Account([chunk], model.optimizer_state_bytes, _scratch_bytes(plan, model.parameters), "bucketed")


def stages_account(plan: Plan, of_rank: Sequence[int], expert: int) -> Account:
    """Describe a rank that has some stages of a pipeline, at a place among those that share the experts."""
    partition = plan.partition
    stages_parts = {stage: stage_parts(plan, stage, expert) for stage in of_rank}
    chunks = [_chunk(plan, stage, parts) for stage, parts in stages_parts.items()]
    whole = stage_model(plan, [part for parts in stages_parts.values() for part in parts])
    gradients: Gradients = "bucketed" if partition.has_plain_replicas else "grown"
    offloads = partition.offload != "none"
    return Account(
        chunks,
        optimizer_state_bytes=0 if offloads else whole.optimizer_state_bytes,
        optimizer_scratch_bytes=0 if offloads else _scratch_bytes(plan, whole.parameters),
        gradients="scattered" if partition.shards_gradients else gradients,
        shard_ranks=sharers(partition).shard_ranks if partition.shards_gradients else 1,
        expert_shard_ranks=sharers(partition, experts=True).shard_ranks if partition.shards_gradients else 1,
        blocks=microbatch_shape(plan).blocks,
        keeps_units=partition.keeps_units,
        gathers_twice=partition.sharding == "parameters" and not partition.keeps_units,
        restores_blocks=partition.recompute == "full",
        gives_up_copied=offloads
        and (partition.shards_gradients or (gradients == "grown" and partition.sharding == "none")),
    )


def _chunk(plan: Plan, stage: int, parts: Sequence[Part]) -> Chunk:
    shape = microbatch_shape(plan)
    logits_bytes = ELEMENT_BYTES * shape.tokens * (shape.vocabulary // shape.tensor)
    return Chunk(
        first_layer=first_layer(plan, stage),
        footprints=[footprint_of_part(part) for part in parts],
        parameters=[part.layer.parameters for part in parts],
        blocks=[part.block for part in parts],
        begins=stage == 0,
        output_bytes=logits_bytes if stage == stages(plan) - 1 else shape.own_stream_bytes,
    )


def _scratch_bytes(plan: Plan, parameters: Sequence[Parameter]) -> int:
    if plan.training.optimizer.kind != "adamw":
        return 0
    return adamw_scratch_bytes(parameters, lambda parameter: sharers_of(parameter, plan.partition).shard_ranks)


def adamw_scratch_bytes(parameters: Sequence[Parameter], ranks_of: Callable[[Parameter], int]) -> int:
    """Give what torch's loop over parameters needs: two tensors for one, and that of the one before, still there.

    Source: `_single_tensor_adam` of torch/optim/adam.py: the squares' root, its quotient, `denom` of the last turn.
    """
    sizes = [0, *(shard_bytes(parameter, ranks_of(parameter)) for parameter in parameters)]
    return max((before + 2 * size for before, size in pairwise(sizes)), default=0)
