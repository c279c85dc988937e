"""Training: a rank's compute effects, bound to tensors.

Layers are cut apart by detaching each one's input, so that the backward pass of a layer is a call of its own. Each
bucket is one flat tensor, and the gradients of its parameters are views of it: autograd accumulates straight into what
is communicated, and nothing is copied. Compressed, a bucket has a codec that fills its payloads and reads them again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twinstep.effects import Compute
from twinstep.exec.codecs import Codec, codec
from twinstep.exec.data import batches
from twinstep.exec.models import build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.programs import Bucket, DataParallel


class Training:
    """Model, data, optimizer and buckets of one rank."""

    def __init__(self, programs: DataParallel, rank: int, device: torch.device) -> None:
        plan = programs.plan
        self._workload = plan.training
        self._device = device
        self._batches = batches(plan, programs.shards[rank])
        self.layers = build_layers(plan.training, plan.run.seed).to(device)
        self.buckets = flat_buckets(programs.buckets, device)
        self._view_gradients(programs.buckets)
        self._codecs = [
            codec(programs, rank, bucket, flat) for bucket, flat in zip(programs.buckets, self.buckets, strict=True)
        ]
        self._optimizer = make_optimizer(plan.training, self.layers)
        self._loss_scale = 1.0 / loss_terms(plan.training)
        self._inputs: list[Tensor] = [torch.empty(0)] * (len(self.layers) + 1)
        self._outputs = list(self._inputs)
        self._losses: list[Tensor] = []
        self._inputs[0], self._targets = self._load(step=0)

    def _view_gradients(self, buckets: Sequence[Bucket]) -> None:
        parameters = dict(self.layers.named_parameters())
        for bucket, flat in zip(buckets, self.buckets, strict=True):
            start = 0
            for described in bucket.parameters:
                parameter = parameters.pop(described.name)
                parameter.grad = flat[start : start + described.elements].view(described.shape)
                start += described.elements
        if parameters:
            raise ValueError(f"parameters that no bucket holds: {', '.join(parameters)}")

    def _load(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._batches.batch(step)
        return inputs.to(self._device), targets.to(self._device)

    def payload(self, bucket: int, number: int) -> Tensor:
        """Give what a round of a bucket communicates."""
        return self._codecs[bucket].payloads[number]

    def run(self, effect: Compute, step: int) -> None:
        """Do what an effect says."""
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
        is_loss = layer == len(self.layers)
        torch.autograd.backward(self._outputs[layer], None if is_loss else self._inputs[layer + 1].grad)

    def losses(self) -> Tensor:
        """Give this rank's part of the loss of every step (steps,)."""
        return torch.stack(self._losses) if self._losses else torch.empty(0)


def flat_buckets(buckets: Sequence[Bucket], device: torch.device) -> list[Tensor]:
    """Make one zeroed flat float32 tensor a bucket."""
    return [torch.zeros(bucket.size_bytes // 4, device=device) for bucket in buckets]
