"""Hybrid parallelism: (sharded) data x tensor x sequence x context x pipeline parallel training of a GPT.

The mesh says which rank is where (`mesh`), the stage what it computes (`stage`, `parts`), the schedule in which order
(`schedules`), the holding what it exchanges of parameters and gradients (`holding`), and what leaves for the host
(`offload`). One microbatch of a stage between tensor-parallel ranks, with w for a wait:

    compute   w  part 0  w  part 1  w ...        w recv     part 0: a computation, then a sum over the tensor group
    tensor              sum       sum            w sum
    pipeline  recv                      send

Gradients of a stage travel during its last backward pass, or after it without overlap. First and last stage both hold
the tied embedding and sum its gradient over the group `embedding`, where they are on two ranks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from twinstep.effects import Collective, Compute, HostCopy, Mark, Program, Transfer
from twinstep.partition import Dimension
from twinstep.plan import Plan
from twinstep.programs.accounts import Account, stages_account
from twinstep.programs.dry_run import first_steps
from twinstep.programs.groups import Groups
from twinstep.programs.held import Held
from twinstep.programs.holding import Holding, hold
from twinstep.programs.ledger import Entry, ledger, peak
from twinstep.programs.mesh import EMBEDDING, HOST, PIPELINE, coordinates, mesh_groups
from twinstep.programs.offload import HostOptimizer, Offloaded, host_bytes, without_copied
from twinstep.programs.parts import Part, Pieces
from twinstep.programs.pieces import Where, lines_of
from twinstep.programs.schedules import Direction, Slot, computed, place_of, slots, stage_of
from twinstep.programs.script import Line, begin, do, finish, perform, wait
from twinstep.programs.sharers import shard_bytes, sharers, sharers_of
from twinstep.programs.stage import first_layer, microbatch_shape, stage_model, stage_parts, stages
from twinstep.programs.strategy import Defaults
from twinstep.programs.wrapped import updated
from twinstep.timeline import Phase
from twinstep.workloads import STATE_COPIES, TIED_WEIGHT, Gpt


@dataclass(frozen=True)
class Hybrid(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    groups: Mapping[str, Groups] = field(init=False)

    def __post_init__(self) -> None:
        groups = mesh_groups(self.plan.partition, ties_ends=ties_ends(self.plan))
        if self.plan.partition.offload != "none":
            groups = {**groups, HOST: Groups(HOST, np.arange(self.plan.ranks).reshape(-1, 1))}
        object.__setattr__(self, "groups", groups)

    @cached_property
    def places(self) -> Mapping[int, Mapping[Dimension, int]]:
        """Give each rank's position along each dimension of the mesh."""
        return coordinates(self.plan.partition)

    def key(self, rank: int) -> Hashable:
        """Ranks of a stage do the same, and send round the ring from their own place in it."""
        place = self.places[rank]
        return place["pipeline"], place["context"], self._expert(rank)

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part."""
        return peak(self.ledger(rank)).parts()

    def ledger(self, rank: int) -> Iterator[Entry]:
        """Give what a rank holds, effect by effect of a step."""
        account = self.account(rank)
        entries = ledger(first_steps(self.program(rank)), account)
        return without_copied(entries) if account.gives_up_copied else entries

    def host_memory_bytes(self, rank: int) -> dict[str, int]:
        """Give what a rank's host holds for it, by part; nothing without offload."""
        effects = first_steps(self.program(rank))
        sent = (effect.size_bytes for effect in effects if isinstance(effect, HostCopy) and effect.kind == "to_host")
        return host_bytes(sum(sent), STATE_COPIES[self.plan.training.optimizer.kind])

    def account(self, rank: int) -> Account:
        """Say what a rank holds all the time, and how the rest comes and goes."""
        return stages_account(self.plan, self._stages(self.places[rank]["pipeline"]), self._expert(rank))

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        script = self._script(rank)
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from perform(script)
            yield Mark("step_end", step)

    def _script(self, rank: int) -> Sequence[Line]:
        """Give what a rank does in a step; that of ranks with equal keys is made once."""
        if self.key(rank) not in self._scripts:
            place = self.places[rank]
            host = HostOptimizer(self.plan) if self.plan.partition.offload != "none" else None
            chunks = list(_chunks(self.plan, self._stages(place["pipeline"]), self._expert(rank), host))
            self._scripts[self.key(rank)] = tuple(_step(self.plan, chunks, place, host))
        return self._scripts[self.key(rank)]

    @cached_property
    def _scripts(self) -> dict[Hashable, Sequence[Line]]:
        return {}

    def _expert(self, rank: int) -> int:
        """Give a rank's position among those that share the experts."""
        return self.places[rank]["data"] % self.plan.partition.expert

    def _stages(self, position: int) -> list[int]:
        partition = self.plan.partition
        return [stage_of(partition, position, chunk) for chunk in range(partition.chunks)]


def ties_ends(plan: Plan) -> bool:
    """Tell whether two ranks hold the tied embedding."""
    if not isinstance(plan.workload, Gpt) or not plan.workload.tied:
        return False
    last = place_of(plan.partition, stages(plan) - 1)
    return place_of(plan.partition, 0).rank != last.rank


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One stage on one rank: its parts, and what it exchanges of its parameters."""

    stage: int
    parts: tuple[Part, ...]
    first_layer: int
    holdings: tuple[Holding, ...]


def _chunks(plan: Plan, stages_: Sequence[int], expert: int, host: HostOptimizer | None) -> Iterator[_Chunk]:
    """Make the chunks of a rank; buckets and units are numbered through."""
    partition, first, blocks = plan.partition, 0, microbatch_shape(plan).blocks
    by_wrappers = plan.run.engine == "native"
    for stage in stages_:
        parts = stage_parts(plan, stage, expert)
        holdings: list[Holding] = []
        for who in dict.fromkeys(
            sharers_of(parameter, partition) for part in parts for parameter in part.layer.parameters
        ):
            held = Held(parts, who, partition, plan.sync, first, blocks, by_wrappers)
            made = Offloaded(held, host, ties_ends=ties_ends(plan)) if host else hold(held)
            first += made.buckets
            holdings.append(made)
        yield _Chunk(stage, parts, first_layer(plan, stage), tuple(holdings))


def _step(
    plan: Plan, chunks: Sequence[_Chunk], place: Mapping[Dimension, int], host: HostOptimizer | None
) -> Iterator[Line]:
    """Give the script of a step."""
    order = slots(plan.partition, place["pipeline"])
    last_of = {slot.chunk: index for index, slot in enumerate(order) if slot.direction in "BW"}
    sent: list[Line] = []
    leaving: list[Transfer] = []
    for index, slot in enumerate(order):
        made = _Pass(plan, chunks[slot.chunk], slot, place, is_last=last_of[slot.chunk] == index)
        yield from made.received()
        yield from made.computed()
        leaving += made.sent()
        if not slot.with_next:
            yield from map(begin, leaving)
            sent += map(wait, leaving)
            leaving = []
    yield from sent
    for chunk in chunks:
        yield from (line for holding in chunk.holdings for line in holding.settle())
    for effect in _tied_gradient(plan, chunks):  # of whole gradients, or of the shards that these have become
        yield from finish(effect)
    if host:
        yield from host.update()
    else:
        whole = stage_model(plan, [part for chunk in chunks for part in chunk.parts])
        has_dtensors = plan.shares_tensors_by_torch or (plan.run.engine == "native" and plan.partition.shards_gradients)
        yield do(Compute("optimizer", updated(whole.optimizer) if has_dtensors else whole.optimizer))
    for chunk in chunks:
        yield from (line for holding in chunk.holdings for line in holding.renew())


class _Pass:
    """A slot of the schedule on one rank."""

    def __init__(self, plan: Plan, chunk: _Chunk, slot: Slot, place: Mapping[Dimension, int], *, is_last: bool) -> None:
        self._plan = plan
        self._chunk = chunk
        self._slot = slot
        self._place = place
        self._is_last = is_last

    def received(self) -> list[Line]:
        """Receive what the neighbouring stage has computed, if it is on another rank."""
        source = self._chunk.stage - self._towards
        return [line for transfer in self._transfer("recv", source) for line in finish(transfer)]

    def sent(self) -> list[Transfer]:
        """Send it on to the other neighbour."""
        return self._transfer("send", self._chunk.stage + self._towards)

    def computed(self) -> Iterator[Line]:
        """Compute each part, with what comes before and after it."""
        direction, microbatch = self._direction, self._slot.microbatch
        if direction is None:
            return
        numbered = list(enumerate(self._chunk.parts))
        holdings = self._chunk.holdings
        for index, part in numbered if direction == "F" else reversed(numbered):
            yield from (line for each in holdings for line in each.before(index, direction, microbatch))
            lines = self._lines(_pieces(part, direction), index)
            after = [line for each in holdings for line in each.after(index, direction, microbatch, last=self._is_last)]
            computed = max((number + 1 for number, line in enumerate(lines) if line.verb == "do"), default=0)
            yield from (*lines[:computed], *after, *lines[computed:])

    def _lines(self, pieces: Pieces, index: int) -> list[Line]:
        phases: dict[str | None, Phase] = {"F": "forward", "W": "weight_gradients"}
        phase = phases.get(self._direction, "backward")
        ring = (self._place["context"], self._plan.partition.context)
        return lines_of(pieces, Where(phase, self._chunk.first_layer + index, self._slot.microbatch, ring))

    @property
    def _direction(self) -> Direction | None:
        """What is computed."""
        return computed(self._slot.direction, self._chunk.stage)

    @property
    def _towards(self) -> int:
        """Where what the pass computes is wanted: the next stage, or the one before."""
        return {"F": 1, "B": -1, "I": -1, "W": 0}[self._slot.direction]

    def _transfer(self, kind: Literal["send", "recv"], other: int) -> list[Transfer]:
        """Exchange with another stage; with nobody where there is none, it is on this rank, or none waits."""
        partition = self._plan.partition
        if self._towards == 0 or not 0 <= other < stages(self._plan):
            return []
        here, there = self._place["pipeline"], place_of(partition, other).rank
        if here == there:
            return []
        source, target = (here, there) if kind == "send" else (there, here)
        lane = "activations" if self._towards == 1 else "gradients"
        size_bytes = microbatch_shape(self._plan).own_stream_bytes
        border = first_layer(self._plan, max(self._chunk.stage, other)) if partition.chunks > 1 else None
        return [Transfer(kind, PIPELINE, source, target, size_bytes, lane, border, self._slot.microbatch)]


def _pieces(part: Part, direction: Direction) -> Pieces:
    match direction:
        case "F":
            return part.forward
        case "B":
            return part.backward
        case "I":
            return part.inputs_backward
        case "W":
            return part.weights_backward


def _tied_gradient(plan: Plan, chunks: Sequence[_Chunk]) -> list[Collective]:
    """Sum the gradient of the tied embedding, which first and last stage have: of shards, the largest."""
    if not ties_ends(plan):
        return []
    ends = [chunk for chunk in chunks if chunk.stage in (0, stages(plan) - 1)]
    tied = {p for chunk in ends for part in chunk.parts for p in part.layer.parameters if p.name == TIED_WEIGHT}
    ranks = sharers(plan.partition).shard_ranks if plan.partition.shards_gradients else 1
    return [Collective("all_reduce", EMBEDDING, shard_bytes(p, ranks), EMBEDDING) for p in tied]
