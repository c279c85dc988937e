"""Holding: which parameters, gradients and optimizer state a rank holds, and what it exchanges therefore.

`partition.sharding` over n ranks that would otherwise hold the same P bytes of parameters; what a rank sends in a step
of m microbatches:

| sharding | of parameters, gradients, optimizer state it holds | exchanged | bytes sent |
|---|---|---|---|
| none | all, all, all | gradients are summed | 2 (n - 1) / n P |
| optimizer (ZeRO 1) | all, all, 1/n | gradients reduced and scattered, new parameters gathered | 2 (n - 1) / n P |
| gradients (ZeRO 2) | all, 1/n, 1/n | parameters gathered m times, gradients as before | (m + 1) (n - 1) / n P |
| parameters (ZeRO 3) | 1/n, 1/n, 1/n | the same, and parameters m times more, backward | (2 m + 1) (n - 1) / n P |
| the last two in a pipeline | the same | parameters gathered once, as units stay | 2 (n - 1) / n P |
| any, with c copies | the same | shards of gradients are summed over copies, too | 2 (c - 1) / c P / n besides |

Source: Rajbhandari et al., "ZeRO", 2020, section 7; the gathers of the last two are those of torch's `fully_shard`,
which has the optimizer's result in shards alone. With copies (hybrid sharding), n is the size of a sharding group, and
shards of gradients are summed over the copies after each scatter. Experts that some ranks share are held in the same
way by those that have the same ones.

With sequence parallelism each tensor-parallel rank has gradients of norms, positions and biases of the residual stream
for its own tokens only, and always those of norms of heads for its own heads only: they are summed over the tensor
group, one by one, before anything else happens to them (Megatron-LM, `finalize_model_grads.py`).

Torch's `fully_shard` copies shards into one buffer before a gather, each parameter out of the other one after it, and
gradients into one before a scatter: `encode` and `decode`. On a CPU its collectives block their rank.

What travels together is a bucket without sharding of parameters, and a unit with it: a block, or what is in no block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from twinstep.effects import Collective, Compute
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.partition import Partition
from twinstep.programs.buckets import Bucket
from twinstep.programs.held import Held
from twinstep.programs.mesh import COPIES, TENSOR
from twinstep.programs.schedules import Direction
from twinstep.programs.script import Line, begin, do, finish, wait
from twinstep.programs.sharers import Sharers, padded_bytes
from twinstep.programs.units import Unit
from twinstep.timeline import CollectiveKind, Phase
from twinstep.workloads import Parameter, is_head_norm, is_whole

Place = tuple[Phase, int]
"""A phase and a microbatch."""


class Holding(Protocol):
    """What one chunk of a rank exchanges of its parameters and gradients, line by line."""

    @property
    def buckets(self) -> int:
        """Count its buckets; none where units travel."""
        ...

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Give what comes before a pass of a part."""
        ...

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Give what comes after it; `last` in the pass that completes the gradients of the step."""
        ...

    def settle(self) -> list[Line]:
        """Give what the optimizer waits for."""
        ...

    def renew(self) -> list[Line]:
        """Give what comes after the optimizer."""
        ...


def hold(held: Held) -> Holding:
    """Choose by what is sharded."""
    return Sharded(held) if held.partition.shards_gradients else Replicated(held)


class Replicated:
    """All parameters and gradients on every rank; the optimizer's state perhaps in shards."""

    def __init__(self, held: Held) -> None:
        buckets = held.buckets
        self._held = held
        self._sharers = held.sharers
        self._buckets = buckets if self._sharers.ranks > 1 else ()
        self._alone = [p for bucket in buckets for p in bucket.parameters] if self._sharers.ranks == 1 else []
        self._waiting = [*self._buckets]
        self._begun: list[Collective] = []

    @property
    def buckets(self) -> int:
        """Count them."""
        return len(self._buckets)

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Give nothing: all is here."""
        del part, direction, microbatch
        return []

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Begin the buckets that the pass completes; without overlap, all of them at its end."""
        del direction, microbatch
        lines: list[Line] = []
        overlap = self._held.sync.overlap or part == 0
        while last and overlap and self._waiting and self._waiting[0].ready_after_layer >= part:
            bucket = self._waiting.pop(0)
            lines += completed(bucket.parameters, self._held.first + bucket.index, self._held.partition)
            lines.append(begin(self._reduction(bucket)))
        return lines

    def settle(self) -> list[Line]:
        """Wait for all sums, and sum shards over the copies."""
        lines = completed(self._alone, self._held.first, self._held.partition)
        lines += [wait(effect) for effect in self._begun]
        if self._shards and self._sharers.copies > 1:
            lines += _all([_over_copies(effect, self._sharers) for effect in self._begun])
        return lines

    def renew(self) -> list[Line]:
        """Gather what other ranks have updated."""
        return _all([self._shared(bucket, "all_gather") for bucket in self._buckets]) if self._shards else []

    @property
    def _shards(self) -> bool:
        return self._held.partition.sharding == "optimizer"

    def _reduction(self, bucket: Bucket) -> Collective:
        if self._shards:
            effect = self._shared(bucket, "reduce_scatter")
        else:
            group, number = self._sharers.group, self._held.first + bucket.index
            blocks = self._held.by_unit
            effect = Collective("all_reduce", group, bucket.size_bytes, group, bucket=number, blocks_host=blocks)
        self._begun.append(effect)
        return effect

    def _shared(self, bucket: Bucket, kind: CollectiveKind) -> Collective:
        """Communicate a bucket, padded until ranks have equal shares of it."""
        ranks, group = self._sharers.shard_ranks, self._sharers.shard_group
        elements = bucket.size_bytes // ELEMENT_BYTES
        size_bytes = -(-elements // ranks) * ranks * ELEMENT_BYTES
        return Collective(kind, group, size_bytes, group, bucket=self._held.first + bucket.index)


def _all(effects: Sequence[Collective]) -> list[Line]:
    """Begin all and wait for all."""
    return [*map(begin, effects), *map(wait, effects)]


class Sharded:
    """Parameters and gradients in shards: units are gathered before a pass needs them, and then given up again.

    The root's unit (what is in no block) is gathered first, and kept until a backward pass is over. With overlap the
    next unit of a pass is gathered while this one is computed. In a pipeline all units are kept until the end of the
    step (torchtitan's default), as gathering them for each microbatch would cost too much.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self._sharers = held.sharers
        self._blocks = held.blocks
        self._parameters = held.units if held.sharers.ranks > 1 else {}
        self._here: set[Unit] = set()
        self._coming: dict[Unit, Collective] = {}
        self._begun: list[Collective] = []

    @property
    def buckets(self) -> int:
        """Give none."""
        return 0

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Wait for the part's unit, and for the root's before the first part; begin the gather of the next unit."""
        if direction == "W":
            return []
        place: Place = ("forward" if direction == "F" else "backward", microbatch)
        order = self._blocks if direction == "F" else self._blocks[::-1]
        position = part if direction == "F" else len(order) - 1 - part
        needed = [order[position]]
        if position == 0:
            needed.insert(0, None)
        lines = [line for unit in needed for line in self._arrive(unit, place)]
        following = (unit for unit in order[position:] if unit not in (order[position], None))
        if self._held.sync.overlap:
            lines += [line for unit in list(following)[:1] for line in self._come(unit, place)]
        return lines

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Give the part's unit up, and reduce its gradients when they are complete."""
        del microbatch
        unit = self._blocks[part]
        if direction == "F":
            gives_up = self._held.partition.sharding == "parameters" and unit is not None
            if gives_up and not self._held.partition.keeps_units and unit not in self._blocks[part + 1 :]:
                self._here.discard(unit)
            return []
        done: list[Unit] = [] if unit is None or unit in self._blocks[:part] else [unit]
        if part == 0:
            done.append(None)
        if last if self._held.partition.keeps_units else direction != "W":
            self._here.difference_update(done)
        return [line for each in done if last and direction != "I" for line in self._reduce(each)]

    def settle(self) -> list[Line]:
        """Wait for all shards of gradients."""
        lines = self._over_copies()
        return lines + [wait(effect) for effect in self._begun]

    def renew(self) -> list[Line]:
        """Give nothing: the next pass gathers what is new."""
        return []

    def _arrive(self, unit: Unit, place: Place) -> list[Line]:
        lines = self._come(unit, place)
        if unit in self._coming:
            gather = self._coming.pop(unit)
            lines += [wait(gather), *self._copied("decode", gather, gather.size_bytes)]
            self._here.add(unit)
        return lines

    def _come(self, unit: Unit, place: Place) -> list[Line]:
        if unit in self._here or unit in self._coming or unit not in self._parameters:
            return []
        phase, microbatch = place
        gather = self._of_unit("all_gather", unit, microbatch, phase)
        self._coming[unit] = gather
        return [*self._copied("encode", gather, gather.size_bytes // self._sharers.shard_ranks), begin(gather)]

    def _reduce(self, unit: Unit) -> list[Line]:
        """Begin to reduce a unit's gradients; over the copies, those of the unit before, which are there by now."""
        if unit not in self._parameters:
            return []
        lines = self._over_copies() + completed(
            self._parameters[unit], self._held.number_of(unit), self._held.partition
        )
        scatter = self._of_unit("reduce_scatter", unit)
        self._begun.append(scatter)
        return [*lines, *self._copied("encode", scatter, scatter.size_bytes), begin(scatter)]

    def _copied(self, phase: Literal["encode", "decode"], effect: Collective, size_bytes: int) -> list[Line]:
        """Copy what a collective moves into its buffer or out of it, where torch's wrappers do."""
        if not self._held.by_wrappers:
            return []
        kernels = (Kernel("copy", (size_bytes // ELEMENT_BYTES,)),)
        number = None if effect.during is None else ("forward", "backward").index(effect.during)
        return [do(Compute(phase, kernels, microbatch=effect.microbatch, bucket=effect.bucket, round=number))]

    def _of_unit(
        self, kind: CollectiveKind, unit: Unit, microbatch: int | None = None, phase: Phase | None = None
    ) -> Collective:
        ranks, group = self._sharers.shard_ranks, self._sharers.shard_group
        size_bytes = sum(padded_bytes(parameter, ranks) for parameter in self._parameters[unit])
        number = self._held.number_of(unit)
        return Collective(
            kind,
            group,
            size_bytes,
            group,
            bucket=number,
            microbatch=microbatch,
            during=phase,
            blocks_host=self._held.by_wrappers,
        )

    def _over_copies(self) -> list[Line]:
        if self._sharers.copies == 1 or not self._begun:
            return []
        scatter = self._begun.pop()
        summed = _over_copies(scatter, self._sharers)
        self._begun.append(summed)
        return [wait(scatter), begin(summed)]


def _over_copies(scatter: Collective, shared_by: Sharers) -> Collective:
    """Sum shards of gradients over the copies."""
    size_bytes = scatter.size_bytes // shared_by.shard_ranks
    return Collective("all_reduce", COPIES, size_bytes, COPIES, bucket=scatter.bucket)


def completed(parameters: Sequence[Parameter], bucket: int, partition: Partition) -> list[Line]:
    """Sum gradients of which each tensor-parallel rank has a part."""
    if partition.tensor == 1:
        return []
    is_partial = is_whole if partition.sequence_parallel else is_head_norm
    whole = [parameter for parameter in parameters if is_partial(parameter)]
    sums = [
        Collective("all_reduce", TENSOR, parameter.size_bytes, TENSOR, bucket=bucket, round=number)
        for number, parameter in enumerate(whole)
    ]
    return [line for effect in sums for line in finish(effect)]
