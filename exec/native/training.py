"""Training: the loop that a user of torch would write, on a model that torch's wrappers have shared out.

What else shares a model out comes in `NativeTraining`: tensor and context parallelism change `model` before
`share_data` wraps it, and a pipeline takes the place of `Accumulation`. Both find their groups in `mesh`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from twinstep.exec.board import Seat
from twinstep.exec.data import batches
from twinstep.exec.models import build_layers
from twinstep.exec.native.accumulation import Accumulation, Passes
from twinstep.exec.native.clock import CudaClock, HostClock
from twinstep.exec.native.collectives import SeenCollectives
from twinstep.exec.native.data_sharing import share_data
from twinstep.exec.native.group_names import group_names
from twinstep.exec.native.layers import SeenLayers
from twinstep.exec.native.mesh import data_position, device_mesh, dimension_groups, replica_mesh
from twinstep.exec.native.recorder import Recorder
from twinstep.exec.pending import Observed, Record
from twinstep.programs import Strategy, shards


class NativeTraining:
    """A rank that trains with torch's own wrappers."""

    def __init__(self, programs: Strategy, rank: int, device: torch.device, seat: Seat) -> None:
        plan = programs.plan
        self._plan = plan
        self._device = device
        self._recorder = Recorder(CudaClock() if device.type == "cuda" else HostClock(), seat)
        names = group_names(dimension_groups(plan.partition) | dict(programs.groups), rank)
        self._seen_collectives = SeenCollectives(self._recorder, names)
        mesh = device_mesh(plan.partition, device.type)
        layers = build_layers(plan.training, plan.run.seed).to(device)
        seen = SeenLayers(self._recorder, [*layers])
        self._model = nn.Sequential(*layers)
        replicas = replica_mesh(mesh, plan.partition)
        shared = share_data(self._model, plan, replicas)
        self._optimizer = shared.optimizer
        self._passes: Passes = Accumulation(plan, shared, replicas.size() if replicas else 1, self._recorder, seen)
        position = data_position(mesh, plan.partition)
        self._batches = batches(plan, shards(plan.training.samples, plan.partition.data)[position])
        self._losses: list[Tensor] = []
        self._parameters: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train, and put the parameters together."""
        self.train()
        self._parameters = {name: _whole(parameter) for name, parameter in self._model.named_parameters()}

    def train(self) -> None:
        """Take all steps, warm-up steps first."""
        with self._seen_collectives:
            for step in range(self._plan.total_steps):
                self._recorder.begin_step(step)
                self._take(step)
                self._recorder.end_step()

    def _take(self, step: int) -> None:
        """Take a step."""
        self._recorder.start("load")
        inputs, targets = (each.to(self._device) for each in self._batches.batch(step))
        self._recorder.stop()
        self._losses.append(self._passes.run(inputs, targets))
        self._recorder.start("optimizer")
        self._optimizer.step()
        self._optimizer.zero_grad()

    def losses(self) -> Tensor:
        """Give this rank's part of the loss of every step (steps,)."""
        return torch.stack(self._losses)

    def parameters(self) -> Mapping[str, Tensor]:
        """Give the parameters by name, as one process would have them."""
        return self._parameters

    def records(self) -> list[Record]:
        """Give all records; their groups have names already."""
        return self._recorder.records()

    def observed(self) -> list[Observed]:
        """List nothing."""
        return []


def _whole(parameter: Tensor) -> Tensor:
    """Give a parameter as one process would have it; every rank that has a part of it must call this."""
    found = parameter.detach()
    return (found.full_tensor() if isinstance(found, DTensor) else found).cpu()
