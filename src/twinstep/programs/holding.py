"""Holding: which parameters, gradients and optimizer state a rank holds, and what it exchanges therefore.

`partition.sharding` over n ranks that would otherwise hold the same P bytes of parameters; what a rank sends a step:

| sharding | each rank holds of parameters, gradients, optimizer state | exchanged | bytes sent |
|---|---|---|---|
| none | all, all, all | gradients are summed | 2 (n - 1) / n P |
| optimizer (ZeRO 1) | all, all, 1/n | gradients are reduced and scattered; new parameters are gathered | 2 (n - 1) / n P |
| gradients (ZeRO 2) | all, 1/n, 1/n | parameters are gathered, once a pass; gradients reduced and scattered | 2 (n - 1) / n P |
| parameters (ZeRO 3) | 1/n, 1/n, 1/n | the same, and parameters are gathered again for the backward pass | 3 (n - 1) / n P |

Source: Rajbhandari et al., "ZeRO", 2020, section 7; the gathers of the last two are those of torch's `fully_shard`, which
has the optimizer's result only in shards. With copies (hybrid sharding), n is the size of a sharding group, and shards of
gradients are summed over the copies after each scatter.

With sequence parallelism each tensor-parallel rank has gradients of norms and positions for its own tokens only: they are
summed over the tensor group, one by one, before anything else happens to them.

What travels together is a bucket without sharding of parameters, and a unit with it: a block, or what is in no block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from twinstep.effects import Collective
from twinstep.kernels import ELEMENT_BYTES
from twinstep.partition import Partition
from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.mesh import COPIES, DATA, SHARDING, TENSOR
from twinstep.programs.parts import Part
from twinstep.programs.script import Line, begin, finish, wait
from twinstep.synchronisation import Sync
from twinstep.timeline import CollectiveKind, Phase
from twinstep.workloads import Model, Parameter, is_whole

Direction = Literal["F", "B", "I", "W"]
Place = tuple[Phase, int]
"""A phase and a microbatch."""
_ROOT = None
"""The unit of what is in no block."""


class Holding(Protocol):
    """What one chunk of a rank exchanges of its parameters and gradients, line by line."""

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


class Replicated:
    """All parameters and gradients on every rank; the optimizer's state perhaps in shards."""

    def __init__(self, model: Model, partition: Partition, sync: Sync) -> None:
        is_one = partition.data * partition.context == 1
        self._buckets = () if is_one else fill_buckets(model.layers, sync.bucket)
        self._alone = model.parameters if is_one else ()
        self._partition = partition
        self._overlap = sync.overlap
        self._waiting = [*self._buckets]
        self._begun: list[Collective] = []

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Give nothing: all is here."""
        del part, direction, microbatch
        return []

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Begin the buckets that the pass completes; without overlap, all of them at its end."""
        del direction, microbatch
        lines: list[Line] = []
        while last and self._waiting and self._waiting[0].ready_after_layer >= part and (self._overlap or part == 0):
            bucket = self._waiting.pop(0)
            lines += _completed(bucket.parameters, bucket.index, self._partition)
            lines.append(begin(self._reduction(bucket)))
        return lines

    def settle(self) -> list[Line]:
        """Wait for all sums, and sum shards over the copies."""
        lines = _completed(self._alone, 0, self._partition)
        lines += [wait(effect) for effect in self._begun]
        if self._partition.sharding == "optimizer" and self._partition.sharding_copies > 1:
            lines += _all([_over_copies(effect, self._partition) for effect in self._begun])
        return lines

    def renew(self) -> list[Line]:
        """Gather what other ranks have updated."""
        if self._partition.sharding == "none":
            return []
        return _all([self._of_bucket(bucket, "all_gather") for bucket in self._buckets])

    def _reduction(self, bucket: Bucket) -> Collective:
        if self._partition.sharding == "none":
            effect = Collective("all_reduce", DATA, bucket.size_bytes, DATA, bucket=bucket.index)
        else:
            effect = self._of_bucket(bucket, "reduce_scatter")
        self._begun.append(effect)
        return effect

    def _of_bucket(self, bucket: Bucket, kind: CollectiveKind) -> Collective:
        """Communicate a bucket, padded until ranks have equal shares of it."""
        ranks, group = shard_ranks(self._partition), shard_group(self._partition)
        elements = bucket.size_bytes // ELEMENT_BYTES
        size_bytes = -(-elements // ranks) * ranks * ELEMENT_BYTES
        return Collective(kind, group, size_bytes, group, bucket=bucket.index)


def _all(effects: Sequence[Collective]) -> list[Line]:
    """Begin all and wait for all."""
    return [*map(begin, effects), *map(wait, effects)]


class Sharded:
    """Parameters and gradients in shards: units are gathered before a pass needs them, and then given up again.

    The root's unit (what is in no block) is gathered first, and kept until a backward pass is over. With overlap the
    next unit of a pass is gathered while this one is computed.
    """

    def __init__(self, parts: Sequence[Part], partition: Partition, sync: Sync) -> None:
        self._blocks = [part.block for part in parts]
        self._parameters = _units(parts)
        self._partition = partition
        self._overlap = sync.overlap
        self._here: set[int | None] = set()
        self._coming: dict[int | None, Collective] = {}
        self._begun: list[Collective] = []

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Wait for the part's unit, and for the root's before the first part; begin the gather of the next unit."""
        if direction == "W":
            return []
        place: Place = ("forward" if direction == "F" else "backward", microbatch)
        order = self._blocks if direction == "F" else self._blocks[::-1]
        position = part if direction == "F" else len(order) - 1 - part
        needed: list[int | None] = [_ROOT, order[position]] if position == 0 else [order[position]]
        lines = [line for unit in needed for line in self._arrive(unit, place)]
        following = (unit for unit in order[position:] if unit not in (order[position], _ROOT))
        if self._overlap:
            lines += [line for unit in list(following)[:1] for line in self._come(unit, place)]
        return lines

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Give the part's unit up, and reduce its gradients when they are complete."""
        del microbatch
        unit = self._blocks[part]
        if direction == "F":
            if self._partition.sharding == "parameters" and unit is not _ROOT and unit not in self._blocks[part + 1 :]:
                self._here.discard(unit)
            return []
        done = [unit] if unit is not _ROOT and unit not in self._blocks[:part] else []
        done += [_ROOT] if part == 0 else []
        if direction != "W":
            self._here.difference_update(done)
        return [line for each in done if last and direction != "I" for line in self._reduce(each)]

    def settle(self) -> list[Line]:
        """Wait for all shards of gradients."""
        lines = self._over_copies()
        return lines + [wait(effect) for effect in self._begun]

    def renew(self) -> list[Line]:
        """Give nothing: the next pass gathers what is new."""
        return []

    def _arrive(self, unit: int | None, place: Place) -> list[Line]:
        lines = self._come(unit, place)
        if unit in self._coming:
            lines.append(wait(self._coming.pop(unit)))
            self._here.add(unit)
        return lines

    def _come(self, unit: int | None, place: Place) -> list[Line]:
        if unit in self._here or unit in self._coming or unit not in self._parameters:
            return []
        phase, microbatch = place
        group = shard_group(self._partition)
        gather = Collective(
            "all_gather", group, self._size(unit), group, bucket=_number(unit), microbatch=microbatch, during=phase
        )
        self._coming[unit] = gather
        return [begin(gather)]

    def _reduce(self, unit: int | None) -> list[Line]:
        """Begin to reduce a unit's gradients; over the copies, those of the unit before, which are there by now."""
        if unit not in self._parameters:
            return []
        group = shard_group(self._partition)
        scatter = Collective("reduce_scatter", group, self._size(unit), group, bucket=_number(unit))
        lines = self._over_copies() + _completed(self._parameters[unit], _number(unit), self._partition)
        self._begun.append(scatter)
        return [*lines, begin(scatter)]

    def _size(self, unit: int | None) -> int:
        return sum(padded_bytes(parameter, shard_ranks(self._partition)) for parameter in self._parameters[unit])

    def _over_copies(self) -> list[Line]:
        if self._partition.sharding_copies == 1 or not self._begun:
            return []
        scatter = self._begun.pop()
        summed = _over_copies(scatter, self._partition)
        self._begun.append(summed)
        return [wait(scatter), begin(summed)]


def shard_ranks(partition: Partition) -> int:
    """Count the ranks that share one copy of what is sharded."""
    return partition.data * partition.context // partition.sharding_copies if partition.sharding != "none" else 1


def shard_group(partition: Partition) -> str:
    """Name their group."""
    return SHARDING if partition.sharding_copies > 1 else DATA


def _over_copies(scatter: Collective, partition: Partition) -> Collective:
    """Sum shards of gradients over the copies."""
    size_bytes = scatter.size_bytes // shard_ranks(partition)
    return Collective("all_reduce", COPIES, size_bytes, COPIES, bucket=scatter.bucket)


def _completed(parameters: Sequence[Parameter], bucket: int, partition: Partition) -> list[Line]:
    """Sum gradients of which each tensor-parallel rank has a part."""
    if not partition.sequence_parallel:
        return []
    whole = [parameter for parameter in parameters if is_whole(parameter)]
    sums = [
        Collective("all_reduce", TENSOR, parameter.size_bytes, TENSOR, bucket=bucket, round=number)
        for number, parameter in enumerate(whole)
    ]
    return [line for effect in sums for line in finish(effect)]


def _units(parts: Sequence[Part]) -> dict[int | None, list[Parameter]]:
    """Give the parameters of each unit that has any."""
    found: dict[int | None, dict[Parameter, None]] = {}
    for part in parts:
        found.setdefault(part.block, {}).update(dict.fromkeys(part.layer.parameters))
    return {unit: list(parameters) for unit, parameters in found.items() if parameters}


def padded_bytes(parameter: Parameter, ranks: int) -> int:
    """Give the bytes of a parameter whose rows are padded to a multiple of the ranks.

    >>> padded_bytes(Parameter("weight", (3, 10)), 2)
    160
    """
    rows = parameter.shape[0]
    return parameter.size_bytes // rows * (-(-rows // ranks) * ranks)


def _number(unit: int | None) -> int:
    """Number a unit: 0 is the root's, n + 1 block n's."""
    return 0 if unit is None else unit + 1
