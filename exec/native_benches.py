"""What torch's own wrappers add to each operation of a DTensor, timed on trivially small ones.

Each style of tensor parallelism is applied to a module so small that its arithmetic takes nothing, on a mesh of two
ranks of which the other is torch's fake one: what is sent arrives at once, and what is left is the host's own time. An
optimizer takes its parameters as they are after `fully_shard` or these styles. All is made when it is first used, in
the process that is timed: no other can meet its ranks any more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn import functional

from twinstep.exec.codec_benches import Grid, Timed
from twinstep.exec.models import Embedding
from twinstep.exec.native.tensor import share_tensors
from twinstep.programs.mesh import TENSOR

_RANKS = 2
_SAMPLES, _TOKENS, _WIDTH = 2, 4, 8
_OTHER = torch.ones(2**23)
"""Read before an update, as all of a step's other data are."""
WHOLE, SHARED = 1, 2
"""Whether each rank has the whole residual stream, or a part of each sample's tokens."""
STREAMS: Grid = ((WHOLE, SHARED),)


@cache
def _mesh() -> DeviceMesh:
    """Make a mesh of this process and a fake one."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not dist.is_initialized():
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=_RANKS)
    return init_device_mesh("cpu", (_RANKS,), mesh_dim_names=(TENSOR,))


class _Given(torch.autograd.Function):
    """Inputs from elsewhere, where their gradient is used, too: here nobody waits for it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None


class _Module:
    """The passes of a module of DTensors, which is made when it is first used.

    What a rank is sent it waits for where it is used, so the output is, and so is the gradient of an input that comes
    from a plain operation, as the whole residual stream does.
    """

    def __init__(self, make: Callable[[], nn.Module], inputs: Tensor, *, is_plain: bool) -> None:
        self._make = cache(make)
        self._inputs = inputs.requires_grad_(inputs.is_floating_point())
        self._is_plain = is_plain
        self._output = self._inputs

    def forward(self) -> None:
        self._inputs.grad = None
        given: Callable[[Tensor], Tensor] = _Given.apply
        inputs = self._inputs * 1 if self._is_plain else given(self._inputs)
        output = self._make()(inputs)
        self._output = output if isinstance(output, DTensor) else output + 1

    def backward(self) -> None:
        torch.autograd.backward(self._output, torch.ones_like(self._output))


def _under(style: ParallelStyle, module: nn.Module) -> nn.Module:
    return parallelize_module(module, _mesh(), style, src_data_rank=None)


def _passes(name: str, make: Callable[[], nn.Module], inputs: Tensor, *, is_plain: bool = False) -> Timed:
    timed = _Module(make, inputs, is_plain=is_plain)
    return {f"dtensor_{name}_forward": timed.forward, f"dtensor_{name}_backward": timed.backward}


def _stream(layout: int, width: int = _WIDTH) -> Tensor:
    return torch.ones(_SAMPLES, _TOKENS // layout, width)


def _placement(layout: int) -> Replicate | Shard:
    return Shard(1) if layout == SHARED else Replicate()


def _linear() -> nn.Linear:
    return nn.Linear(_WIDTH, _WIDTH, bias=False)


def _column(layout: int) -> Timed:
    style = ColwiseParallel(input_layouts=_placement(layout))
    return _passes("column", lambda: _under(style, _linear()), _stream(layout), is_plain=layout == WHOLE)


def _row(layout: int) -> Timed:
    style = RowwiseParallel(output_layouts=_placement(layout))
    return _passes("row", lambda: _under(style, _linear()), _stream(WHOLE, _WIDTH // _RANKS))


def _norm(layout: int) -> Timed:
    return _passes("norm", lambda: _under(SequenceParallel(), nn.LayerNorm(_WIDTH, bias=False)), _stream(layout))


def _embedding(layout: int) -> Timed:
    def make() -> nn.Module:
        layers = nn.ModuleList([Embedding(_TOKENS, _WIDTH)])
        share_tensors(layers, _mesh(), sequence_parallel=layout == SHARED)
        return layers[0]

    return _passes("embedding", make, torch.zeros(_SAMPLES, _TOKENS, dtype=torch.int64))


class _Loss:
    """The cross entropy of logits that are shared by the vocabulary."""

    def __init__(self) -> None:
        self._targets = torch.zeros(_SAMPLES * _TOKENS, dtype=torch.int64)
        self._logits = torch.ones(_SAMPLES, _TOKENS, _WIDTH // _RANKS, requires_grad=True)
        self._loss = torch.zeros(())

    def forward(self) -> None:
        self._logits.grad = None
        logits = DTensor.from_local(self._logits, _mesh(), [Shard(2)])
        with loss_parallel():
            flat = logits.flatten(0, -2)
            self._loss = functional.cross_entropy(flat, self._targets, reduction="sum") * 0.5

    def backward(self) -> None:
        with loss_parallel():
            torch.autograd.backward(self._loss)


def _loss() -> Timed:
    timed = _Loss()
    return {"dtensor_loss_forward": timed.forward, "dtensor_loss_backward": timed.backward}


def _optimizer(name: str, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[..., Timed]:
    def bench(p: int, j: int) -> Timed:
        def parameter() -> nn.Parameter:
            shard = torch.ones(max(1, p // j))
            made = nn.Parameter(DTensor.from_local(shard, _mesh(), [Shard(0)]))
            made.grad = DTensor.from_local(0.01 * shard, _mesh(), [Shard(0)])
            return made

        made = cache(lambda: make([parameter() for _ in range(j)]))
        return {"": _OTHER.sum, f"dtensor_{name}": lambda: made().step()}

    return bench


_UPDATES: Grid = ((1024, 2**18, 2**21), (2, 32))
NATIVE_BENCHES: tuple[tuple[Grid, Callable[..., Timed]], ...] = (
    (STREAMS, _column),
    (STREAMS, _row),
    (STREAMS, _norm),
    (STREAMS, _embedding),
    ((), _loss),
    (_UPDATES, _optimizer("sgd", lambda p: torch.optim.SGD(p, lr=1e-6))),
    (_UPDATES, _optimizer("momentum", lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9))),
    (_UPDATES, _optimizer("adamw", lambda p: torch.optim.AdamW(p, lr=1e-6))),
)
"""The grid of shapes of each bench, and what makes it at a point."""
