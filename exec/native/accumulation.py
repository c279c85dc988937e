"""Accumulation: the microbatches of a step, one after another on the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from twinstep.exec.models import loss_sum, loss_terms
from twinstep.exec.native.data_sharing import Shared
from twinstep.exec.native.layers import SeenLayers
from twinstep.exec.native.recorder import Recorder
from twinstep.exec.native.tensor import whole
from twinstep.plan import Plan


class Passes(Protocol):
    """The forward and backward passes of a step: here without a pipeline."""

    @property
    def model(self) -> nn.Module:
        """The rank's part of the model."""
        ...

    def run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute gradients of a rank's samples, and give its part of the loss."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the rank's parameters with the names that they have in the whole model."""
        ...


class Accumulation:
    """Sums the gradients of microbatches.

    Wrappers average gradients over the ranks that hold the same parameters, so the rank's part of the loss, which is
    divided by the terms of the global batch, is multiplied by their number.
    """

    def __init__(
        self, plan: Plan, model: nn.Module, shared: Shared, replicas: int, recorder: Recorder, seen: SeenLayers
    ) -> None:
        self.model = model
        """Within `shared`."""
        self._plan = plan
        self._shared = shared
        self._replicas = replicas
        self._recorder = recorder
        self._seen = seen
        self._layers = seen.count

    def run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute gradients of a rank's samples, and give its part of the loss."""
        count = self._plan.partition.microbatches
        pairs = zip(inputs.chunk(count), targets.chunk(count), strict=True)
        losses = []
        for number, (part, wanted) in enumerate(pairs):
            self._seen.microbatch = number if count > 1 else None
            with self._shared.reducing(number == count - 1):
                losses.append(self._pass(part, wanted))
        return torch.stack(losses).sum()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Give all parameters."""
        return self.model.named_parameters()

    def _pass(self, inputs: Tensor, targets: Tensor) -> Tensor:
        workload, microbatch = self._plan.training, self._seen.microbatch
        outputs = self._shared.module(inputs)
        self._recorder.start("forward", self._layers, microbatch)
        loss = loss_sum(workload, outputs, targets) / loss_terms(workload)
        self._recorder.start("backward", self._layers, microbatch)
        scaled = loss * self._replicas
        self._seen.at_end_of_graph(scaled)
        scaled.backward()  # type: ignore[no-untyped-call]
        self._recorder.end_of_backward()
        return whole(loss)
