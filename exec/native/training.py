"""Training: the loop that a user of torch would write, on a model that torch's wrappers have shared out.

The model is built whole on every rank. Then its tensors are shared, it is cut into a pipeline's stages, and what is
left is wrapped for the ranks that hold the same parameters, in this order: each finds what the one before has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import loss_parallel

from twinstep.exec.board import Seat
from twinstep.exec.data import batches
from twinstep.exec.memory import measure_memory
from twinstep.exec.models import build_layers
from twinstep.exec.native.accumulation import Accumulation, Passes
from twinstep.exec.native.clock import CudaClock, HostClock
from twinstep.exec.native.collectives import SeenCollectives
from twinstep.exec.native.context import context_sharing
from twinstep.exec.native.data_sharing import share_data, shared_optimizer
from twinstep.exec.native.group_names import group_names
from twinstep.exec.native.layers import SeenLayers
from twinstep.exec.native.mesh import data_position, device_mesh, replica_mesh
from twinstep.exec.native.pipeline import Pipeline, PipelineGroups
from twinstep.exec.native.recomputation import recompute
from twinstep.exec.native.recorder import Recorder
from twinstep.exec.native.slots import SeenSlots
from twinstep.exec.native.tensor import complete_gradients, share_tensors, whole
from twinstep.exec.pending import Observed, Record
from twinstep.exec.reference import Reference
from twinstep.memory_use import MemoryUse
from twinstep.programs import Groups, Strategy, shards
from twinstep.programs.mesh import EMBEDDING, PIPELINE


class NativeTraining:
    """A rank that trains with torch's own wrappers."""

    def __init__(self, programs: Strategy, rank: int, device: torch.device, seat: Seat) -> None:
        plan = programs.plan
        self._plan = plan
        self._device = device
        self._recorder = Recorder(CudaClock() if device.type == "cuda" else HostClock(), seat)
        self._seen_collectives = SeenCollectives(self._recorder, group_names(programs.groups, rank))
        self._mesh = device_mesh(plan.partition, device.type)
        layers = build_layers(plan.training, plan.run.seed).to(device)
        self._names = [name for name, _ in layers.named_parameters()]
        if plan.partition.tensor > 1:
            share_tensors(layers, self._mesh, sequence_parallel=plan.partition.sequence_parallel)
        recompute(layers, plan.partition.recompute)
        replicas = replica_mesh(self._mesh)
        self._passes = self._make_passes(layers, programs.groups, replicas)
        self._optimizer = shared_optimizer(self._passes.model, plan, replicas)
        self._own = context_sharing(self._passes.model, self._mesh, plan.partition.context)
        position = data_position(self._mesh, plan.partition)
        self._batches = batches(plan, shards(plan.training.samples, plan.partition.data)[position])
        self._reference = Reference() if device.type == "cpu" else None
        self._observed: list[Observed] = []
        self._losses: list[Tensor] = []
        self._parameters: dict[str, Tensor] = {}

    def _make_passes(self, layers: nn.ModuleList, groups: Mapping[str, Groups], replicas: DeviceMesh | None) -> Passes:
        """Cut the model into stages, if there are several, and wrap what is left of it."""
        plan, seen = self._plan, SeenLayers(self._recorder, [*layers])
        count = replicas.size() if replicas else 1
        if plan.partition.pipeline == 1:
            model = nn.Sequential(*layers)
            shared = share_data(model, plan, replicas)
            return Accumulation(plan, model, shared, count, self._recorder, seen)
        return Pipeline(
            plan,
            layers,
            self._mesh.get_local_rank(PIPELINE),
            PipelineGroups(self._mesh.get_group(PIPELINE), _own_group(groups.get(EMBEDDING))),
            wrap=lambda module: share_data(module, plan, replicas).module,
            replicas=count,
            around=SeenSlots(self._recorder, seen).around,
        )

    def run(self) -> None:
        """Train, and put the parameters together."""
        self.train()
        self._parameters = self._whole_parameters()

    def train(self) -> None:
        """Take all steps, warm-up steps first."""
        with self._seen_collectives:
            for step in range(self._plan.total_steps):
                self._take(step)

    def memory(self) -> MemoryUse:
        """Measure what the rank holds."""
        model, device = self._passes.model, self._device
        another = partial(self._take, self._plan.total_steps)
        return measure_memory(another, model.parameters(), self._optimizer, device)

    def _take(self, step: int) -> None:
        """Take a step."""
        if self._reference:
            self._observed += self._reference.due(step)
        self._recorder.begin_step(step)
        self._recorder.start("load")
        inputs, targets = (each.to(self._device) for each in self._batches.batch(step))
        self._recorder.stop()
        with self._own(inputs, targets) as own, self._sharing_the_loss():
            self._losses.append(self._passes.run(*own))
        if self._plan.partition.tensor > 1:
            complete_gradients(self._passes.model)
        self._recorder.start("optimizer")
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._recorder.end_step()

    def _sharing_the_loss(self) -> AbstractContextManager[None]:
        """Give what surrounds passes where tensor-parallel ranks have parts of the logits."""
        return loss_parallel() if self._plan.partition.tensor > 1 else nullcontext()

    def losses(self) -> Tensor:
        """Give this rank's part of the loss of every step (steps,), which tensor-parallel ranks all have."""
        return torch.stack(self._losses) / self._plan.partition.tensor

    def parameters(self) -> Mapping[str, Tensor]:
        """Give the parameters by name, as one process would have them."""
        return self._parameters

    def records(self) -> list[Record]:
        """Give all records; their groups have names already."""
        return self._recorder.records()

    def observed(self) -> list[Observed]:
        """Give how fast the core was; nothing on a GPU."""
        return self._observed

    def _whole_parameters(self) -> dict[str, Tensor]:
        """Put the parameters of all ranks together; the copies of a tied weight have been updated alike."""
        found = {name: whole(parameter).cpu() for name, parameter in self._passes.named_parameters()}
        parts = [found]
        if self._plan.partition.pipeline > 1:
            parts = [{} for _ in range(self._plan.partition.pipeline)]
            dist.all_gather_object(parts, found, self._mesh.get_group(PIPELINE))
        known = {name: parameter for part in parts for name, parameter in part.items()}
        return {name: known[name] for name in self._names}


def _own_group(groups: Groups | None) -> dist.ProcessGroup | None:
    """Make all groups of a kind, as every rank must, and give the rank's own, if it is in one."""
    made = {} if groups is None else {tuple(ranks): dist.new_group(ranks) for ranks in groups.ranks.tolist()}
    return next((group for ranks, group in made.items() if dist.get_rank() in ranks), None)
