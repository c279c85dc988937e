"""Counts of operations on DTensors, by torch's profiler: of real layers, and of what calibrate times; a JSON line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import loss_parallel
from torch.profiler import ProfilerActivity, profile

from twinstep.exec.models import Block, Embedding, Head
from twinstep.exec.native.tensor import share_tensors
from twinstep.exec.native_benches import NATIVE_BENCHES

WIDTH, TOKENS, SAMPLES = 32, 16, 2
LAYERS = ("embedding", "block", "ending")


def operations(function: Callable[[], object]) -> int:
    """Count how often torch dispatches to a subclass of Tensor."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        function()
    return sum(event.name == "PythonSubclass" for event in seen.events())


def of_benches() -> dict[str, int]:
    found = {}
    for grid, make in NATIVE_BENCHES:
        for shape in itertools.product(*grid):
            timed = make(*shape)
            if not any(name.endswith("_forward") for name in timed):
                continue
            for function in timed.values():
                function()
            found |= {f"{name} {shape}": operations(function) for name, function in timed.items()}
    return found


class Pass:
    """A layer's passes; the last layer's loss belongs to it."""

    def __init__(self, layer: nn.Module, inputs: Tensor, targets: Tensor | None) -> None:
        self._layer = layer
        self._inputs = inputs
        self._targets = targets
        self._output = inputs

    def forward(self) -> None:
        self._output = self._layer(self._inputs)
        if self._targets is not None:
            with loss_parallel():
                flat = self._output.flatten(0, -2)
                self._output = nn.functional.cross_entropy(flat, self._targets.flatten(), reduction="sum") / 32

    def backward(self) -> None:
        with loss_parallel():
            torch.autograd.backward(self._output, torch.ones_like(self._output) if self._targets is None else None)


def of_layers(shares_tokens: bool) -> dict[str, int]:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    embedding = Embedding(TOKENS, WIDTH)
    layers = nn.ModuleList([embedding, Block(4, WIDTH), Head(WIDTH, embedding.token.weight)])
    share_tensors(layers, mesh, sequence_parallel=shares_tokens)
    tokens = torch.zeros(SAMPLES, TOKENS, dtype=torch.int64)
    found = {}
    for name, layer in zip(LAYERS, layers, strict=True):
        stream = torch.ones(SAMPLES, TOKENS // (1 + shares_tokens), WIDTH).requires_grad_()
        of_layer = Pass(layer, tokens if name == "embedding" else stream, tokens if name == "ending" else None)
        for _ in range(2):  # in the first backward pass gradients are made, later they are added to
            counts = [operations(of_layer.forward), operations(of_layer.backward)]
        found |= {f"{name} forward {shares_tokens}": counts[0], f"{name} backward {shares_tokens}": counts[1]}
    return found


if __name__ == "__main__":
    print(json.dumps(of_benches() | of_layers(False) | of_layers(True)))
