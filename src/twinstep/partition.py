"""Partition: how the work is split over ranks, as a scenario file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twinstep.disturbances import MAX_RANKS
from twinstep.strict_model import StrictModel

Placement = Literal["range", "hash", "consistent_hash", "random", "stratified", "by_label"]
Dimension = Literal["tensor", "context", "data", "pipeline"]
Schedule = Literal[
    "one_forward_one_backward",
    "gpipe",
    "interleaved_one_forward_one_backward",
    "zero_bubble",
    "interleaved_zero_bubble",
    "zero_bubble_v",
    "dual_pipe_v",
]


_HYBRID = (
    *("tensor", "sequence_parallel", "context", "expert", "pipeline", "chunks", "microbatches"),
    *("sharding", "sharding_copies", "recompute", "offload"),
)


class Partition(StrictModel):
    """How the work is split over ranks."""

    data: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Data-parallel degree: how many ranks, or groups of ranks, share each global batch."""
    features: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Into how many parts the features of a linear or logistic regression are cut (vertical partitioning); with `data`
    a grid. Executed with emulated compute alone."""
    tensor: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Tensor-parallel degree: how many ranks share each block of a GPT."""
    sequence_parallel: bool = False
    """Whether tensor-parallel ranks share the residual stream, too, by its tokens (Megatron's sequence parallelism)."""
    context: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Context-parallel degree: how many ranks share the tokens of each sample; attention passes keys and values round
    a ring."""
    expert: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Expert-parallel degree: how many neighbouring data-parallel ranks share the experts of a mixture."""
    pipeline: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Pipeline-parallel degree: over how many ranks the blocks of a GPT are dealt."""
    chunks: Annotated[int, Field(ge=1, le=64)] = 1
    """Into how many chunks, apart from one another, a rank's blocks fall: with schedules that interleave, or go to and
    fro."""
    microbatches: Annotated[int, Field(ge=1, le=65536)] = 1
    """Into how many microbatches a step's samples of a data-parallel rank are cut; without a pipeline, gradients are
    accumulated over them."""
    schedule: Schedule = "one_forward_one_backward"
    """In which order a rank computes microbatches: 1F1B, all forward passes first (GPipe), 1F1B over several chunks,
    zero bubble (weights' gradients apart), over several chunks, in the shape of a V, or DualPipe's V."""
    sharding: Literal["none", "optimizer", "gradients", "parameters"] = "none"
    """What data-parallel ranks share instead of having it all: the optimizer's state (ZeRO 1), gradients, too (2), or
    parameters, too (3, as fully_shard does)."""
    sharding_copies: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """How many copies of what is shared there are: with more than one (hybrid sharding), data / copies ranks share,
    and copies sum their gradients."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What is computed again in the backward pass rather than kept: nothing, the core of attention, or whole blocks."""
    offload: Literal["none", "optimizer"] = "none"
    """What lies in the host's memory: nothing, or the optimizer's state, whose step the host's processor does
    (ZeRO-Offload). Predicted only; the topology states the hosts' `processor`."""
    order: Annotated[tuple[Dimension, ...], Field(strict=False)] = ("tensor", "context", "data", "pipeline")
    """How the mesh lies on the topology's devices: dimensions from the one whose ranks are neighbours to the one whose
    ranks are farthest apart."""
    placement: Placement = "range"
    """Which samples a worker has: consecutive ranges of each batch, whose sizes differ by one at most; or rows of the
    data set of its own, by hashing, at random, with the same mix of labels as all others, or by label. With emulated
    compute; stratified and by_label for mlp and logistic_regression."""
    remedy: Literal["none", "resample", "class_weights", "repartition"] = "none"
    """What is done where workers' rows have labels in other proportions than the whole data set: nothing; a worker
    draws its labels equally often, in batches of equal size; each sample counts by its label's share of the whole over
    that on the worker; or workers exchange samples in the first step. For mlp and logistic_regression with rows of
    their own, by a sync.method other than all_reduce."""

    @property
    def ranks(self) -> int:
        """Number of ranks: the product of all degrees."""
        return self.data * self.features * self.tensor * self.context * self.pipeline

    @property
    def has_plain_replicas(self) -> bool:
        """Tell whether several ranks hold parameters whole: DistributedDataParallel takes no DTensors."""
        return self.data * self.context > 1 and self.tensor == 1 and not self.shards_gradients

    @property
    def is_hybrid(self) -> bool:
        """Tell whether ranks share a model, or cut their samples into microbatches, or keep less than they need."""
        return bool(self.hybrid_keys)

    @property
    def hybrid_keys(self) -> tuple[str, ...]:
        """Name the keys that ask for more than replicated data parallelism."""
        return tuple(name for name in _HYBRID if getattr(self, name) != type(self).model_fields[name].default)

    @property
    def shards_gradients(self) -> bool:
        """Tell whether ranks share gradients, so that parameters travel by units."""
        return self.sharding in ("gradients", "parameters")

    @property
    def keeps_units(self) -> bool:
        """Tell whether what is gathered stays until the end of a step: in a pipeline, as torchtitan has it."""
        return self.pipeline > 1

    @model_validator(mode="after")
    def _order_has_all(self) -> Partition:
        if sorted(self.order) != ["context", "data", "pipeline", "tensor"]:
            raise ValueError(
                "partition.order must name tensor, context, data and pipeline once each: name all four, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _remedies_need_rows(self) -> Partition:
        if self.remedy != "none" and self.placement == "range":
            raise ValueError(
                f"partition.remedy {self.remedy} is for workers with rows of their own: set partition.placement, e.g. "
                "to by_label"
            )
        return self
