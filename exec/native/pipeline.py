"""Pipeline: a GPT in the stages of torch.distributed.pipelining, with torch's schedule of the plan's kind.

The blocks are dealt to the stages of all ranks in consecutive runs, as for the rank programs. With c chunks a rank has
c stages; for 2 ranks and 2 chunks:

    loop   stages 0 1 2 3 on ranks 0 1 0 1     interleaved schedules; one chunk, too
    V      stages 0 1 2 3 on ranks 0 1 1 0     zero_bubble_v and dual_pipe_v

Embedding and head have a copy each of the weight that they share. Its gradients are summed after the schedule's step,
as Megatron-LM does (`finalize_model_grads.py`): by the first and the last rank together or, where one rank has both
ends of the model (V), without communication. There, too, the copies are two, since stages are wrapped apart from one
another, and no wrapper of torch gets the gradient of a weight right that is in two wrapped modules.

Losses are sums over tokens, divided by the tokens of the global batch, so that gradients of microbatches are simply
summed: torch's own division by their number (`scale_grads`) is switched off. Stages are told the shapes of what they
receive and send; otherwise torch computes a forward and a backward pass in vain, and sends shapes, before its first
step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.distributed.tensor import DTensor

from twinstep.exec.models import loss_sum, loss_terms
from twinstep.exec.native.slots import Around, NotedStage, unnoticed
from twinstep.exec.native.tensor import whole
from twinstep.partition import Partition
from twinstep.plan import Plan
from twinstep.programs.placement import shards
from twinstep.programs.schedules import stage_of
from twinstep.programs.stage import microbatch_shape, stages
from twinstep.workloads import TIED_WEIGHT

SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "one_forward_one_backward": Schedule1F1B,
    "interleaved_one_forward_one_backward": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,  # of one stage a rank it is ZB-H1
    "interleaved_zero_bubble": ScheduleInterleavedZeroBubble,
    "zero_bubble_v": ScheduleZBVZeroBubble,
    "dual_pipe_v": ScheduleDualPipeV,
}
"""torch's class for each schedule of a plan."""
Wrap = Callable[[nn.Module], nn.Module]
"""Has the gradients of a stage's module reduced over data-parallel ranks; gives the module, or one around it."""


class PipelineGroups(NamedTuple):
    """The groups that a rank of a pipeline communicates in."""

    pipeline: dist.ProcessGroup
    """The ranks of its pipeline, in order."""
    embedding: dist.ProcessGroup | None
    """The first and the last of them; nothing where a rank is neither, or both ends are on one."""


def stage_layers(layers: nn.ModuleList, stage: int, stages: int) -> nn.Sequential:
    """Take a stage's layers of a GPT; their parameters keep the names that they have in the whole."""
    blocks = shards(len(layers) - 2, stages)[stage]
    first = 0 if stage == 0 else blocks.start + 1
    end = len(layers) if stage == stages - 1 else blocks.stop + 1
    return nn.Sequential(OrderedDict((str(index), layers[index]) for index in range(first, end)))


class Pipeline:
    """The stages of one rank, and torch's schedule over them."""

    def __init__(
        self,
        plan: Plan,
        layers: nn.ModuleList,
        position: int,
        groups: PipelineGroups,
        *,
        wrap: Wrap = lambda module: module,
        replicas: int = 1,
        around: Around = unnoticed,
    ) -> None:
        """Take the layers of the rank at a position of its pipeline from those of the whole GPT.

        `replicas` says over how many ranks `wrap` takes the mean of gradients, where their sum is meant. `around` is
        entered around each computation.
        """
        self._embedding = groups.embedding
        self._replicas = replicas
        self._scale = replicas / loss_terms(plan.training)
        self._workload = plan.training
        indices = [stage_of(plan.partition, position, chunk) for chunk in range(plan.partition.chunks)]
        self.model = nn.ModuleList(stage_layers(layers, index, stages(plan)) for index in indices)
        """The rank's part of the model: a sequence of layers a stage."""
        self._copies = _untie(layers.get_parameter(TIED_WEIGHT), self.model)
        self._stages = [
            _stage(plan, index, wrap(part), groups.pipeline, around)
            for index, part in zip(indices, self.model, strict=True)
        ]
        self._schedule = _schedule(plan.partition, self._stages, self._loss)

    def run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add the gradients of a rank's samples, both (samples, context), and give the loss as far as it is known here.

        It is the samples' part of the mean over the global batch where the last stage is, and 0 elsewhere.
        """
        losses: list[Tensor] = []
        first = (inputs,) if self._stages[0].is_first else ()
        wanted = targets if self._stages[-1].is_last else None
        self._schedule.step(*first, target=wanted, losses=losses, return_outputs=False)
        self._sum_tied_gradients()
        return sum((whole(loss) for loss in losses), start=torch.zeros((), device=inputs.device)) / self._replicas

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Give the rank's parameters, each once, with the names that they have in the whole model."""
        for name, parameter in self.model.named_parameters():
            yield name.partition(".")[2], parameter

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with self._stages[-1].again():
            return loss_sum(self._workload, outputs, targets) * self._scale

    def _sum_tied_gradients(self) -> None:
        gradients = [_local_gradient(self.model.get_parameter(name)) for name in self._copies]
        match gradients:
            case [gradient]:
                dist.all_reduce(gradient, group=self._embedding)
            case [gradient, other]:
                other.copy_(gradient.add_(other))


def _untie(weight: nn.Parameter, model: nn.ModuleList) -> list[str]:
    """Give each of a model's parts its own copy of a weight; list the names that the copies have in the model."""
    names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is weight]
    for name in names[1:]:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(weight.detach().clone()))
    return names


def _local_gradient(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("a tied weight has no gradient after a step of the pipeline")
    if isinstance(gradient, DTensor) and isinstance(
        parameter, DTensor
    ):  # that of a vocabulary shared by tensor-parallel ranks is whole until now
        parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
        return gradient.to_local()
    return gradient


def _stage(plan: Plan, index: int, module: nn.Module, group: dist.ProcessGroup, around: Around) -> NotedStage:
    """Make a stage that knows the shapes of what it receives and sends."""
    partition, shape = plan.partition, microbatch_shape(plan)
    tokens = shape.context // partition.context
    part = tokens // (partition.tensor if partition.sequence_parallel else 1)
    stream = torch.empty(shape.samples, part, shape.width, device="meta", requires_grad=True)
    return NotedStage(
        module,
        index,
        stages(plan),
        next(module.parameters()).device,
        input_args=stream if index else torch.empty(shape.samples, tokens, dtype=torch.int64, device="meta"),
        output_args=stream
        if index < stages(plan) - 1
        else torch.empty(shape.samples, tokens, shape.vocabulary, device="meta"),
        group=group,
        around=around,
    )


def _schedule(partition: Partition, own: list[NotedStage], loss: Callable[[Tensor, Tensor], Tensor]) -> Any:
    kind = SCHEDULES[partition.schedule]
    of_one = issubclass(kind, PipelineScheduleSingle)
    return kind(own[0] if of_one else own, partition.microbatches, loss_fn=loss, scale_grads=False)
