"""Hybrid parallelism: tensor x pipeline x data parallel training of a GPT.

Ranks are numbered with the tensor-parallel position fastest, then the data-parallel one, then the stage, so that tensor
parallelism stays on neighbouring devices: rank = t + T (d + D p). Of a mesh of T = 2, D = 2, P = 2:

    stage 0   [0 1] [2 3]      tensor groups in brackets
    stage 1   [4 5] [6 7]      data groups {0 2} {1 3} {4 6} {5 7}, pipelines {0 4} {1 5} {2 6} {3 7}

One microbatch of a stage, with w for a wait:

    compute   w  part 0  w  part 1  w ...        w recv     part 0: a computation, then a sum over the tensor group
    tensor              sum       sum            w sum
    pipeline  recv                      send

Gradients of a stage travel bucket by bucket during the backward pass of its last microbatch, or after it without
overlap. First and last stage both hold the tied embedding and sum its gradient over the group `embedding`.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from twinstep.effects import Collective, Compute, Effect, Handle, Mark, Program, Transfer, Wait
from twinstep.plan import Plan
from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.groups import Groups
from twinstep.programs.schedules import Slot, gpipe, most_in_flight, one_forward_one_backward
from twinstep.programs.stage import Part, first_layer, microbatch_shape, stage_model, stage_parts
from twinstep.programs.strategy import Defaults
from twinstep.timeline import Phase
from twinstep.workloads import TIED_WEIGHT

DATA, TENSOR, PIPELINE, EMBEDDING = "data", "tensor", "pipeline", "embedding"


@dataclass(frozen=True)
class Hybrid(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    groups: Mapping[str, Groups] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _groups(self.plan))

    def stage_of(self, rank: int) -> int:
        """Give the pipeline stage of a rank."""
        return rank // (self.plan.partition.tensor * self.plan.partition.data)

    def key(self, rank: int) -> Hashable:
        """Ranks of a stage do the same."""
        return self.stage_of(rank)

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory: activations of as many microbatches as the schedule keeps in flight."""
        stage = self.stage_of(rank)
        parts = dict(stage_model(self.plan, stage_parts(self.plan, stage)).memory_bytes())
        parts["activations"] *= most_in_flight(self._slots(stage))
        parts["total"] = sum(size for name, size in parts.items() if name != "total")
        return parts

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        stage = _Stage(self.plan, self.stage_of(rank), self._slots(self.stage_of(rank)))
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from stage.step()
            yield Mark("step_end", step)

    def _slots(self, stage: int) -> list[Slot]:
        partition = self.plan.partition
        if partition.schedule == "gpipe":
            return gpipe(partition.microbatches)
        return one_forward_one_backward(stage, partition.pipeline, partition.microbatches)


def _groups(plan: Plan) -> Mapping[str, Groups]:
    partition = plan.partition
    mesh = np.arange(plan.ranks).reshape(partition.pipeline, partition.data, partition.tensor)
    found = {
        TENSOR: mesh.reshape(-1, partition.tensor),
        DATA: mesh.transpose(0, 2, 1).reshape(-1, partition.data),
        PIPELINE: mesh.transpose(1, 2, 0).reshape(-1, partition.pipeline),
    }
    if partition.pipeline > 1:
        found[EMBEDDING] = found[PIPELINE][:, [0, -1]]
    return {kind: Groups(kind, ranks) for kind, ranks in found.items() if ranks.shape[1] > 1}


class _Stage:
    """The effects of one rank of a stage, built once and yielded in every step."""

    def __init__(self, plan: Plan, stage: int, slots: Sequence[Slot]) -> None:
        self._plan = plan
        self._stage = stage
        self._is_last = stage == plan.partition.pipeline - 1
        self._parts = stage_parts(plan, stage)
        self._first_layer = first_layer(plan, stage)
        self._passes = [(slot, self._effects(slot)) for slot in slots]
        model = stage_model(plan, self._parts)
        self._buckets = fill_buckets(model.layers, plan.sync.bucket) if plan.partition.data > 1 else ()
        self._optimizer = Compute("optimizer", model.optimizer)
        self._tied = self._tied_gradient()

    def step(self) -> Generator[Effect, Any, None]:
        """Do one step."""
        sent: list[Handle] = []
        reduced: list[Handle] = []
        for index, (slot, effects) in enumerate(self._passes):
            if slot.direction == "B" and index == len(self._passes) - 1:
                yield from self._last_backward(effects, sent, reduced)
            else:
                yield from _blocking(effects, sent)
        if self._tied is not None:
            reduced.append((yield self._tied))
        for handle in (*sent, *reduced):
            yield Wait(handle)
        yield self._optimizer

    def _last_backward(
        self, effects: list[Effect], sent: list[Handle], reduced: list[Handle]
    ) -> Generator[Effect, Any, None]:
        """Do the last backward pass, and issue each bucket once its last layer is done (or all of them at the end)."""
        position = len(self._parts)
        waiting = list(self._buckets)
        for effect in effects:
            if type(effect) is Compute:
                position -= 1
            yield from _blocking([effect], sent)
            while self._plan.sync.overlap and type(effect) is Compute and _is_ready(waiting, position):
                reduced.append((yield _all_reduce(waiting.pop(0))))
        for bucket in waiting:
            reduced.append((yield _all_reduce(bucket)))

    def _effects(self, slot: Slot) -> list[Effect]:
        """List what a pass does: receive, each part and its sums, send."""
        forward = slot.direction == "F"
        phase: Phase = "forward" if forward else "backward"
        effects: list[Effect] = []
        if self._stage > 0 if forward else not self._is_last:
            effects.append(self._transfer("recv", -1 if forward else 1, forward, slot.microbatch))
        numbered = list(enumerate(self._parts))
        for index, part in numbered if forward else reversed(numbered):
            kernels = part.layer.forward if forward else part.layer.backward
            layer = self._first_layer + index
            effects.append(Compute(phase, kernels, layer, slot.microbatch))
            if self._plan.partition.tensor > 1:
                effects += _sums(part, layer, phase, slot.microbatch)
        if not self._is_last if forward else self._stage > 0:
            effects.append(self._transfer("send", 1 if forward else -1, forward, slot.microbatch))
        return effects

    def _transfer(self, kind: Literal["send", "recv"], towards: int, forward: bool, microbatch: int) -> Transfer:
        lane = "activations" if forward else "gradients"
        size_bytes = microbatch_shape(self._plan).stream_bytes
        ends = (self._stage, self._stage + towards)
        source, target = ends if kind == "send" else reversed(ends)
        return Transfer(kind, PIPELINE, source, target, size_bytes, lane, microbatch=microbatch)

    def _tied_gradient(self) -> Collective | None:
        if self._plan.partition.pipeline == 1 or not (self._stage == 0 or self._is_last):
            return None
        holder = self._parts[0 if self._stage == 0 else -2].layer  # the embedding, or the head before the loss
        tied = next(parameter for parameter in holder.parameters if parameter.name == TIED_WEIGHT)
        return Collective("all_reduce", EMBEDDING, tied.size_bytes, EMBEDDING)


def _blocking(effects: Sequence[Effect], sent: list[Handle]) -> Generator[Effect, Any, None]:
    """Wait for each communication before going on, but for sends."""
    for effect in effects:
        result = yield effect
        if isinstance(effect, Transfer) and effect.kind == "send":
            sent.append(result)
        elif isinstance(effect, Collective | Transfer):
            yield Wait(result)


def _is_ready(waiting: Sequence[Bucket], position: int) -> bool:
    return bool(waiting) and waiting[0].ready_after_layer >= position


def _all_reduce(bucket: Bucket) -> Collective:
    return Collective("all_reduce", DATA, bucket.size_bytes, DATA, bucket=bucket.index)


def _sums(part: Part, index: int, phase: Phase, microbatch: int) -> list[Collective]:
    sizes = part.forward_sums_bytes if phase == "forward" else part.backward_sums_bytes
    return [
        Collective("all_reduce", TENSOR, size, TENSOR, bucket=number if len(sizes) > 1 else None, layer=index,
                   microbatch=microbatch, during=phase)
        for number, size in enumerate(sizes)
    ]  # fmt: skip
