"""What is timed for each kernel: the same torch calls that the layers make, on a grid of shapes.

A bench makes tensors for one shape and gives the functions to time, by kernel. A function that must be prepared, such
as a backward pass, comes after the one that prepares it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from twinstep.exec.codec_benches import CODEC_BENCHES, Grid, Timed
from twinstep.exec.data import Samples
from twinstep.exec.models import causal_attention
from twinstep.exec.native_benches import NATIVE_BENCHES
from twinstep.workloads.mlp import DIGITS_SAMPLES


@dataclass(frozen=True, slots=True)
class Bench:
    """One family of kernels: the grid, and how to make what is timed at a point of it."""

    grid: Grid
    make: Callable[..., Timed]
    flops_limit: float = 1e8
    """Points with more work than this are not measured; they take the ratio of the nearest one that is."""

    def names(self) -> list[str]:
        """Name the kernels that it times."""
        return [name for name in self.make(*(axis[0] for axis in self.grid)) if name]


_RANDOM = torch.rand(2**20)
_OTHER = torch.ones(2**23)
"""32 MiB that are read before what a step does once, as all of the step's other data are."""


class _Pass:
    """A forward pass and the backward pass through it."""

    def __init__(self, inputs: list[Tensor], function: Callable[[], Tensor]) -> None:
        self._inputs = inputs
        self._function = function
        self._gradient = torch.ones_like(function())
        self._output = self._gradient

    def forward(self) -> None:
        for tensor in self._inputs:
            tensor.grad = None
        self._output = self._function()

    def backward(self) -> None:
        torch.autograd.backward(self._output, self._gradient)


def _passes(name: str, inputs: list[Tensor], function: Callable[[], Tensor]) -> Timed:
    timed = _Pass(inputs, function)
    return {f"{name}_forward": timed.forward, f"{name}_backward": timed.backward}


def _data(*shape: int) -> Tensor:
    """Make a tensor of random numbers; they repeat, since making them anew would take longer than what is timed."""
    tensor = torch.empty(shape)
    for part in torch.split(tensor.view(-1), len(_RANDOM)):
        part.copy_(_RANDOM[: len(part)])
    return tensor


def _input(*shape: int) -> Tensor:
    return _data(*shape).requires_grad_()


def _weight(*shape: int) -> nn.Parameter:
    """Make a parameter whose gradient is there already, so that the backward pass adds to it.

    Its numbers are no zeros: AdamW takes twice as long for a gradient of zeros.
    """
    weight = nn.Parameter(_data(*shape))
    weight.grad = 0.01 * _data(*shape)
    return weight


def _linear(m: int, k: int, n: int) -> Timed:
    x, weight, bias = _input(m, k), _weight(n, k), _weight(n)
    return _passes("linear", [x], lambda: functional.linear(x, weight, bias))


def _linear_weight(m: int, k: int, n: int) -> Timed:
    x, weight, bias = _data(m, k), _weight(n, k), _weight(n)
    timed = _Pass([], lambda: functional.linear(x, weight, bias))
    return {"": timed.forward, "linear_weight_backward": timed.backward}


def _relu(e: int) -> Timed:
    x = _input(e)
    return _passes("relu", [x], lambda: functional.relu(x))


def _gelu(e: int) -> Timed:
    x = _input(e)
    return _passes("gelu", [x], lambda: functional.gelu(x))


def _add(e: int) -> Timed:
    """Join two branches that come from the same tensor, as a residual connection does."""
    x = _input(e)
    return _passes("add", [x], lambda: x + x.view(e))


def _layer_norm(m: int, w: int) -> Timed:
    x, weight = _input(m, w), _weight(w)
    return _passes("layer_norm", [x], lambda: functional.layer_norm(x, (w,), weight))


def _attention(q: int, s: int, h: int) -> Timed:
    heads = 4
    qkv = _input(q // heads, s, 3 * heads * h)
    return _passes("attention", [qkv], lambda: causal_attention(qkv, h))


def _embedding(t: int, v: int, w: int) -> Timed:
    tokens, weight = torch.randint(v, (t,)), _weight(v, w)
    return _passes("embedding", [], lambda: functional.embedding(tokens, weight))


def _cross_entropy(m: int, c: int) -> Timed:
    x, targets = _input(m, c), torch.randint(c, (m,))
    return _passes("cross_entropy", [x], lambda: functional.cross_entropy(x, targets, reduction="sum") * 0.5)


def _squared_error(m: int) -> Timed:
    x, targets = _input(m, 1), _data(m, 1)
    return _passes("squared_error", [x], lambda: functional.mse_loss(x, targets, reduction="sum") * 0.5)


def _backward_call() -> Timed:
    x = _input(1)
    timed = _Pass([x], lambda: x.view(1))
    return {"": timed.forward, "backward_call": timed.backward}


def _gather_rows(m: int, w: int) -> Timed:
    rows = Samples(_data(DIGITS_SAMPLES, w), torch.zeros(DIGITS_SAMPLES), range(m), seed=0)
    return {"": _OTHER.sum, "gather_rows": lambda: rows.batch(0)}


def _zero(p: int) -> Timed:
    flat = torch.ones(p)
    return {"": _OTHER.sum, "zero": flat.zero_}


def _copy(p: int) -> Timed:
    source, target = torch.ones(p), torch.zeros(p)
    return {"": _OTHER.sum, "copy": lambda: target.copy_(source)}


def _optimizer(name: str, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[..., Timed]:
    def bench(p: int, j: int) -> Timed:
        optimizer = make([_weight(max(1, p // j)) for _ in range(j)])
        optimizer.step()
        return {"": _OTHER.sum, name: optimizer.step}

    return bench


_ELEMENTS = ((256, 4096, 65536, 2**20),)
_PARAMETERS = ((1024, 65536, 2**20, 2**22),)
_UPDATES = ((1024, 65536, 2**18, 2**20, 2**21, 2**22), (2, 8, 32))

BENCHES: tuple[Bench, ...] = (
    Bench(((16, 64, 256, 1024), (16, 64, 256, 1024, 4096), (1, 16, 64, 256, 1024, 4096)), _linear, 5e9),
    Bench(((16, 128, 1024), (16, 64, 256, 1024), (1, 16, 256, 1024, 4096)), _linear_weight, 5e9),
    Bench(_ELEMENTS, _relu),
    Bench(_ELEMENTS, _gelu),
    Bench(_ELEMENTS, _add),
    Bench(((16, 256, 4096), (64, 256, 1024)), _layer_norm),
    Bench(((4, 16, 64), (16, 64, 256), (16, 64)), _attention, 2e9),
    Bench(((16, 256, 4096), (64, 256, 1024), (64, 256, 1024)), _embedding),
    Bench(((16, 256, 4096), (10, 256)), _cross_entropy),
    Bench(((16, 256, 4096),), _squared_error),
    Bench((), _backward_call),
    Bench(((16, 64, 256, 1024), (16, 64, 256)), _gather_rows),
    Bench(_PARAMETERS, _zero),
    Bench(_PARAMETERS, _copy),
    Bench(_UPDATES, _optimizer("sgd", lambda p: torch.optim.SGD(p, lr=1e-6))),
    Bench(_UPDATES, _optimizer("momentum", lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9))),
    Bench(_UPDATES, _optimizer("adamw", lambda p: torch.optim.AdamW(p, lr=1e-6))),
    *(Bench(grid, make) for grid, make in (*CODEC_BENCHES, *NATIVE_BENCHES)),
)
