"""Training: a rank's compute effects, bound to tensors.

Layers are cut apart by detaching each one's input, so that the backward pass of a layer is a call of its own. Each
bucket is one flat tensor, and the gradients of its parameters are views of it: autograd accumulates straight into what
is communicated, and nothing is copied. Compressed, a bucket has a codec that fills its payloads and reads them again.
Where workers share memory, the parameters are views of flat tensors, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from twinstep.effects import Compute
from twinstep.exec.codecs import Codec, codec
from twinstep.exec.data import batches
from twinstep.exec.memory import measure_memory
from twinstep.exec.models import build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.memory_use import MemoryUse
from twinstep.programs import Bucket, DataParallel, SharedMemory

_NOTHING = torch.empty(0)


class Training:
    """Model, data, optimizer and buckets of one rank."""

    def __init__(self, programs: DataParallel | SharedMemory, rank: int, device: torch.device) -> None:
        plan = programs.plan
        self._workload = plan.training
        self._device = device
        self._batches = batches(plan, programs.shards[rank])
        self.layers = build_layers(plan.training, plan.run.seed).to(device)
        self.buckets = flat_buckets(programs.buckets, device)
        self._view_gradients(programs.buckets)
        self._codecs = [
            codec(plan, rank, bucket, flat) for bucket, flat in zip(programs.buckets, self.buckets, strict=True)
        ]
        self._optimizer = make_optimizer(plan.training, self.layers)
        self._loss_scale = 1.0 / loss_terms(plan.training)
        self._inputs: list[Tensor] = [_NOTHING] * (len(self.layers) + 1)
        self._outputs = list(self._inputs)
        self._losses: list[Tensor] = []
        self._inputs[0], self._targets = self._load(step=0)

    def _view_gradients(self, buckets: Sequence[Bucket]) -> None:
        for bucket, flat in zip(buckets, self.buckets, strict=True):
            for parameter, view in views_of(flat, bucket, self.layers):
                parameter.grad = view
        without = [name for name, parameter in self.layers.named_parameters() if parameter.grad is None]
        if without:
            raise ValueError(f"parameters that no bucket holds: {', '.join(without)}")

    def _load(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._batches.batch(step)
        return inputs.to(self._device), targets.to(self._device)

    def payload(self, bucket: int, number: int) -> Tensor:
        """Give what a round of a bucket communicates."""
        return self._codecs[bucket].payloads[number]

    def run(self, effect: Compute, step: int) -> float | None:
        """Do what an effect says; give nothing, since nobody asks for the loss before the end."""
        match effect.phase:
            case "load":
                self._inputs[0], self._targets = self._load(step)
            case "forward":
                self._forward(effect.layer or 0)
            case "backward":
                self._backward(effect.layer or 0)
            case "encode":
                self._codec(effect).encode(effect.round or 0, step)
            case "decode":
                self._codec(effect).decode()
            case "optimizer":
                self._optimizer.step()
                for flat in self.buckets:
                    flat.zero_()
            case _:
                raise ValueError(f"no computation is bound to phase {effect.phase!r}")
        return None

    def _codec(self, effect: Compute) -> Codec:
        return self._codecs[effect.bucket or 0]

    def _forward(self, layer: int) -> None:
        if layer > 0:
            self._inputs[layer] = self._outputs[layer - 1].detach().requires_grad_()
        inputs = self._inputs[layer]
        if layer < len(self.layers):
            self._outputs[layer] = self.layers[layer](inputs)
        else:
            loss = loss_sum(self._workload, inputs, self._targets) * self._loss_scale
            self._outputs[layer] = loss
            self._losses.append(loss.detach())

    def _backward(self, layer: int) -> None:
        """Let go of the layer's output, so that it is freed as in a training loop that knows no layers."""
        output, gradient = self._outputs[layer], None
        self._outputs[layer] = _NOTHING
        if layer < len(self.layers):
            gradient, self._inputs[layer + 1] = self._inputs[layer + 1].grad, _NOTHING
        torch.autograd.backward(output, gradient)

    def memory(self, step: Callable[[], None]) -> MemoryUse:
        """Measure what the rank holds, by steps that `step` takes."""
        beside = [self._inputs[0], self._targets, *(tensor for each in self._codecs for tensor in each.beside())]
        return measure_memory(step, self.layers.parameters(), self._optimizer, self._device, beside)

    def losses(self) -> Tensor:
        """Give this rank's part of the loss of every step (steps,)."""
        return torch.stack(self._losses) if self._losses else torch.empty(0)

    def parameters(self) -> dict[str, Tensor]:
        """Give the parameters by name."""
        return {name: parameter.detach().cpu() for name, parameter in self.layers.named_parameters()}


class SharedTraining(Training):
    """A worker that copies parameters from shared memory, computes with the copy, and updates the shared ones in place.

    Both are flat tensors of which the parameters of a model are views: reading is one copy, and torch's optimizer
    updates what is shared.
    """

    def __init__(self, programs: SharedMemory, rank: int) -> None:
        """Give the shared parameters their initial values, as every worker does before the first of them begins."""
        super().__init__(programs, rank, torch.device("cpu"))
        (gradients,) = programs.buckets
        self._shared = torch.from_numpy(programs.memory.parameters)
        self._own = torch.empty_like(self._shared)
        self._shared_layers = build_layers(self._workload, programs.plan.run.seed)
        for layers, flat in ((self.layers, self._own), (self._shared_layers, self._shared)):
            for parameter, view in views_of(flat, gradients, layers):
                parameter.data = view.copy_(parameter.detach())
        for parameter, view in views_of(self.buckets[0], gradients, self._shared_layers):
            parameter.grad = view
        self._optimizer = make_optimizer(self._workload, self._shared_layers)
        self._parts = self._workload.samples / len(programs.shards[rank])
        """What the loss of the worker's samples is multiplied by to be their mean."""

    def run(self, effect: Compute, step: int) -> float | None:
        """Do what an effect says; at the end of the forward pass, give the mean loss of the worker's samples."""
        if effect.phase == "read":
            self._own.copy_(self._shared)
            return None
        super().run(effect, step)
        is_loss = effect.phase == "forward" and effect.layer == len(self.layers)
        return self._losses[-1].item() * self._parts if is_loss else None

    def parameters(self) -> dict[str, Tensor]:
        """Give the shared parameters by name."""
        return {name: parameter.detach() for name, parameter in self._shared_layers.named_parameters()}


def views_of(flat: Tensor, bucket: Bucket, layers: nn.ModuleList) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Give each parameter of a bucket with its part of a flat tensor, in the parameter's shape."""
    parameters = dict(layers.named_parameters())
    start = 0
    for described in bucket.parameters:
        yield parameters[described.name], flat[start : start + described.elements].view(described.shape)
        start += described.elements


def flat_buckets(buckets: Sequence[Bucket], device: torch.device) -> list[Tensor]:
    """Make one zeroed flat float32 tensor a bucket."""
    return [torch.zeros(bucket.size_bytes // 4, device=device) for bucket in buckets]
