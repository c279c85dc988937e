"""Partition: how the work is split over ranks, as a scenario file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twinstep.disturbances import MAX_RANKS
from twinstep.strict_model import StrictModel

Placement = Literal["range", "hash", "consistent_hash", "random", "stratified", "by_label"]


class Partition(StrictModel):
    """How the work is split over ranks."""

    data: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Data-parallel degree: how many ranks, or groups of ranks, share each global batch."""
    features: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Into how many parts the features of a linear or logistic regression are cut (vertical partitioning); with `data`
    a grid. Executed with emulated compute alone."""
    tensor: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Tensor-parallel degree: how many ranks share each block of a GPT. Executed with emulated compute alone."""
    pipeline: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Pipeline-parallel degree: into how many stages the blocks of a GPT are cut. Executed with emulated compute
    alone."""
    microbatches: Annotated[int, Field(ge=1, le=65536)] = 1
    """Into how many microbatches a step's samples of a data-parallel rank are cut."""
    schedule: Literal["one_forward_one_backward", "gpipe"] = "one_forward_one_backward"
    """In which order a stage computes microbatches: 1F1B, or all forward passes first (GPipe)."""
    placement: Placement = "range"
    """Which samples a worker has: consecutive ranges of each batch, whose sizes differ by one at most; or rows of the
    data set of its own, by hashing, at random, with the same mix of labels as all others, or by label. With emulated
    compute; stratified and by_label for mlp and logistic_regression."""
    remedy: Literal["none", "resample", "class_weights", "repartition"] = "none"
    """What is done where workers' rows have labels in other proportions than the whole data set: nothing; a worker
    draws its labels equally often, in batches of equal size; each sample counts by its label's share of the whole over
    that on the worker; or workers exchange samples in the first step. For mlp and logistic_regression with rows of
    their own, by a sync.method other than all_reduce."""

    @model_validator(mode="after")
    def _remedies_need_rows(self) -> Partition:
        if self.remedy != "none" and self.placement == "range":
            raise ValueError(
                f"partition.remedy {self.remedy} is for workers with rows of their own: set partition.placement, e.g. "
                "to by_label"
            )
        return self
