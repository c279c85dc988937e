"""Optimizer: how the parameters of a workload are updated, as a scenario file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twinstep.strict_model import StrictModel


class Optimizer(StrictModel):
    """How parameters are updated."""

    kind: Literal["sgd", "momentum", "adamw"] = "sgd"
    """Plain gradient descent, gradient descent with momentum 0.9, or AdamW."""
    learning_rate: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 0.1
    """Step size; the same for all parameters and steps."""
