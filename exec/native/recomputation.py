"""Recomputation: blocks that keep their input alone, and compute again in the backward pass what it needs."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import nn
from torch.utils.checkpoint import checkpoint

from twinstep.exec.models import Block


def recompute(layers: nn.ModuleList, what: Literal["none", "selective", "full"]) -> None:
    """Have torch's `checkpoint` run the blocks among `layers`, within whatever surrounds them."""
    if what == "none":
        return
    for layer in layers:
        if isinstance(layer, Block):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]
