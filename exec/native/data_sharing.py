"""Data sharing: torch's wrappers for ranks that hold the same parameters, or shares of them.

| partition.sharding | wrapper |
|---|---|
| none | DistributedDataParallel |
| optimizer | DistributedDataParallel and ZeroRedundancyOptimizer |
| gradients | fully_shard, parameters stay gathered from the forward pass to the backward pass |
| parameters | fully_shard, parameters are gathered for each pass |

With tensor parallelism and no sharding it is `replicate`, which is built like fully_shard: DistributedDataParallel
refuses DTensors. It sums the gradients of a unit at once, where the other has buckets. In a pipeline parameters that
fully_shard has gathered stay so until the end of the step, whatever is sharded: torch's passes for weights' gradients
(zero bubble) find none if they are given up in between.

Units of fully_shard are the blocks, and what is left is the root's. With `sharding_copies` the mesh has two dimensions
(hybrid sharding). Gradients of microbatches are summed where they are, and reduced with those of the last one.
DistributedDataParallel fills buckets in the order of the parameters at first, and rebuilds them in the second step in
the order in which gradients have become complete; since a size is given, the first bucket is as large as the others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from twinstep.exec.models import Block, make_optimizer, optimizer_of
from twinstep.plan import Plan

_MIB = 2**20
_IS_NEW = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _IS_NEW else "broadcast_buffers": False}
"""Positions of tokens are the same everywhere, and stay so; torch 2.13 has given the option its new name."""


class Shared(NamedTuple):
    """A model whose parameters or gradients are shared among ranks."""

    module: nn.Module
    """What is called."""
    reducing: Callable[[bool], AbstractContextManager[Any]]
    """Surrounds the passes of a microbatch: whether gradients are reduced after them."""


def share_data(model: nn.Module, plan: Plan, mesh: DeviceMesh | None) -> Shared:
    """Wrap a model as a plan asks; `mesh` is the ranks that hold the same parameters, None for one alone."""
    partition = plan.partition
    if mesh is None:
        return Shared(model, lambda last: nullcontext())
    if partition.shards_gradients:
        gathers_twice = partition.sharding == "parameters" and partition.pipeline == 1
        root = _fully_sharded(model, mesh, gathers_twice=gathers_twice)
        return Shared(model, lambda last: _reducing(root, last))
    if partition.tensor > 1:
        for block in _blocks(model):
            replicate(block, mesh=mesh)
        replicas = replicate(model, mesh=mesh)
        return Shared(model, lambda last: _reducing(replicas, last))
    replica = DistributedDataParallel(
        model,
        device_mesh=mesh,
        bucket_cap_mb=plan.sync.bucket / _MIB,
        gradient_as_bucket_view=True,
        **_NO_BUFFERS,
    )
    return Shared(replica, lambda last: nullcontext() if last else replica.no_sync())


def shared_optimizer(model: nn.Module, plan: Plan, mesh: DeviceMesh | None) -> torch.optim.Optimizer:
    """Make the optimizer of a model that has been wrapped, with a share of its state where the plan asks for that."""
    if mesh is None or plan.partition.sharding != "optimizer":
        return make_optimizer(plan.training, model)
    from torch.distributed.optim import ZeroRedundancyOptimizer  # it warns of its own deprecated neighbours

    kind, options = optimizer_of(plan.training)
    return ZeroRedundancyOptimizer(
        model.parameters(), kind, mesh.get_group(), parameters_as_bucket_view=True, **options
    )


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _fully_sharded(model: nn.Module, mesh: DeviceMesh, *, gathers_twice: bool) -> FSDPModule:
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=gathers_twice)
    # what is left is needed at both ends of a pass: torch keeps the root's parameters gathered unless it is told to
    return fully_shard(model, mesh=mesh, reshard_after_forward=None if gathers_twice else False)


def _reducing(root: FSDPModule, last: bool) -> AbstractContextManager[Any]:
    root.set_requires_gradient_sync(last)
    return nullcontext()
