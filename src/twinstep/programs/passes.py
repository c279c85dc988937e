"""Passes: what a worker computes in a step before anything is communicated or updated."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twinstep.effects import Compute, Effect, Observe
from twinstep.workloads import Model


def passes(model: Model) -> list[Effect]:
    """List loading, the forward pass of every layer, and the backward pass of every layer."""
    layers = list(enumerate(model.layers))
    found: list[Effect] = [Compute("load", model.load)] if model.load else []
    found += [Compute("forward", layer.forward, index) for index, layer in layers]
    found += [Compute("backward", layer.backward, index) for index, layer in reversed(layers)]
    return found


def observed(loss: float | None) -> Generator[Observe, Any, None]:
    """Observe a loss, where there is one."""
    if loss is not None:
        yield Observe("loss", loss)
