"""Ledger: what a rank holds, effect by effect of a step.

| part | what |
|---|---|
| parameters | all, or the rank's shard |
| gathered_parameters | units that are here whole, beside the shards |
| gradients | as the account's `Gradients` says |
| optimizer_state | momenta and squares |
| activations | what forward passes keep for backward passes, the outputs of a stage's last layer among it |
| communication | buffers of collectives that are under way, or that torch has not given back yet |
| temporaries | what an operation needs while it runs |

torch's allocator on CPUs gives back what is freed, so these add up to what it holds. On GPUs it keeps segments, and
what is reserved exceeds what is allocated by some fragmentation: the parts are of what is allocated
(`torch.cuda.max_memory_allocated`); `memory` adds the allowance for more that a device states.

When it is wrong: a step's samples are left out, and so are buffers of the library of collectives, workspaces of matrix
products, the contexts of drivers, the states of random generators that a checkpoint copies (5 KiB a block on CPUs), and
the buffers that torch.distributed.pipelining sets aside for the messages of all microbatches. On GPUs torch's AdamW
updates parameters in groups, with temporaries of as many bytes as they have; here it is a loop, as on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from twinstep.effects import Collective, Communication, Compute, Effect, Learn, Mark, Next, Observe, Synchronize, Wait
from twinstep.programs.accounts import Account, Chunk
from twinstep.programs.sharers import shard_bytes
from twinstep.programs.units import Unit, unit_number, without_experts
from twinstep.workloads import TIED_WEIGHT, Parameter, is_expert

_BACKWARD = ("backward", "weight_gradients")
Acts = Compute | Communication | Wait | Next | Synchronize
"""Effects that take time."""


class HeldBytes(NamedTuple):
    """Bytes of a rank by part."""

    parameters: int = 0
    gathered_parameters: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    activations: int = 0
    communication: int = 0
    temporaries: int = 0

    def parts(self) -> dict[str, int]:
        """Give the parts by name, and their `total`."""
        return self._asdict() | {"total": sum(self)}


class Entry(NamedTuple):
    """An effect and what is held because of it."""

    effect: Acts
    during: HeldBytes
    """The most while it lasts."""
    after: HeldBytes


def peak(entries: Iterable[Entry]) -> HeldBytes:
    """Give what is held when it is the most."""
    return max((entry.during for entry in entries), key=sum)


def ledger(effects: Sequence[Effect], account: Account) -> Iterator[Entry]:
    """Follow a step: give each effect with what is held during and after it."""
    apart = {(e.layer, e.microbatch) for e in effects if isinstance(e, Compute) and e.phase == "weight_gradients"}
    last = {e.layer: e.microbatch for e in effects if isinstance(e, Compute) and e.phase in _BACKWARD}
    return _Walk(account, apart, last).entries(effects)


_Key = tuple[int, int | None]
"""A layer and a microbatch."""


@dataclass
class _Walk:
    """What is held now."""

    account: Account
    apart: set[tuple[int | None, int | None]]
    """Layers and microbatches whose weights have a backward pass of their own."""
    last: Mapping[int | None, int | None]
    """For each layer, the microbatch whose backward pass is the last."""
    units: dict[int, list[Parameter]] = field(default_factory=dict)
    begun: set[tuple[str, int | None, int | None]] = field(default_factory=set)
    kept: dict[_Key, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    """Bytes of gradients that are neither in a bucket nor scattered yet, by parameter."""
    waiting: dict[int | None, int] = field(default_factory=dict)
    """By microbatch, a gradient of the tied weight that waits for the other one."""
    gathered: dict[int, int] = field(default_factory=dict)
    buffers: dict[str, int] = field(default_factory=dict)
    held: HeldBytes = field(init=False)

    def __post_init__(self) -> None:
        for chunk in self.account.chunks:
            for block, parameters in zip(chunk.blocks, chunk.parameters, strict=True):
                unit = self.units.setdefault(self._number(chunk, block), [])
                unit += [parameter for parameter in parameters if parameter not in unit]
        whole = [parameter for unit in self.units.values() for parameter in unit]
        self.held = HeldBytes(
            parameters=sum(shard_bytes(parameter, self.account.ranks_of(parameter)) for parameter in whole),
            gradients=sum(p.size_bytes for p in whole) if self.account.gradients == "bucketed" else 0,
            optimizer_state=self.account.optimizer_state_bytes,
        )

    def entries(self, effects: Iterable[Effect]) -> Iterator[Entry]:
        """Give each effect that computes or communicates."""
        for effect in effects:
            if isinstance(effect, Compute):
                yield self._computed(effect)
            elif isinstance(effect, Wait):
                yield self._waited(effect)
            elif not isinstance(effect, Learn | Mark | Observe):
                yield self._begun(effect)

    def _entry(self, effect: Acts, temporaries: int = 0, **changes: int) -> Entry:
        """Note an effect; the changes take place at its end."""
        during = self.held._replace(temporaries=temporaries)
        self.held = self.held._replace(**{name: getattr(self.held, name) + size for name, size in changes.items()})
        return Entry(effect, during, self.held)

    def _computed(self, effect: Compute) -> Entry:
        if effect.phase in ("optimizer", "host_optimizer"):
            return self._updated(effect)
        turn = (effect.phase, effect.layer, effect.microbatch)
        if effect.phase not in ("forward", "backward", "weight_gradients") or turn in self.begun:
            return self._entry(effect)
        self.begun.add(turn)
        chunk, index = self._place(effect.layer or 0)
        if effect.phase == "forward":
            return self._forward(effect, chunk, index)
        if effect.phase == "weight_gradients":
            return self._weights(effect, chunk, index)
        return self._backward(effect, chunk, index)

    def _forward(self, effect: Compute, chunk: Chunk, index: int) -> Entry:
        mark = chunk.footprints[index]
        ends = index == len(chunk.footprints) - 1
        output = chunk.output_bytes if ends else 0
        self.kept[chunk.first_layer + index, effect.microbatch] = mark.kept
        entry = self._entry(effect, mark.kept + max(mark.forward, output), activations=mark.kept + output)
        if self.account.gathers_twice and chunk.blocks[index] not in (None, *chunk.blocks[index + 1 :]):
            self._give_up(self._number(chunk, chunk.blocks[index]))
        return entry

    def _backward(self, effect: Compute, chunk: Chunk, index: int) -> Entry:
        mark, layer = chunk.footprints[index], chunk.first_layer + index
        self._add("communication", -self.buffers.pop("last unit", 0))
        self._restore(chunk, index, effect.microbatch)
        is_apart = (layer, effect.microbatch) in self.apart
        left = mark.for_weights if is_apart else 0
        entry = self._entry(
            effect,
            self._backward_temporaries(chunk, index, effect.microbatch),
            activations=left - self.kept.pop((layer, effect.microbatch)),
        )
        self.kept[layer, effect.microbatch] = left
        if not is_apart:
            self._made(chunk, index, effect.microbatch)
        if index == 0:
            self._add("activations", -chunk.output_bytes)
        if not (self.account.keeps_units and (is_apart or effect.microbatch != self.last[layer])):
            self._leave(chunk, index)
        return entry._replace(after=self.held)

    def _weights(self, effect: Compute, chunk: Chunk, index: int) -> Entry:
        layer = chunk.first_layer + index
        new = sum(parameter.size_bytes for parameter in chunk.parameters[index])
        entry = self._entry(effect, new, activations=-self.kept.pop((layer, effect.microbatch)))
        self._made(chunk, index, effect.microbatch)
        if self.account.keeps_units and effect.microbatch == self.last[layer]:
            self._leave(chunk, index)
        return entry._replace(after=self.held)

    def _restore(self, chunk: Chunk, index: int, microbatch: int | None) -> None:
        """Compute again what was dropped: of the part, or of its whole block."""
        block = chunk.blocks[index]
        for other, mark in enumerate(chunk.footprints[: index + 1]):
            if other == index or (self.account.restores_blocks and block is not None and chunk.blocks[other] == block):
                key = (chunk.first_layer + other, microbatch)
                self._add("activations", mark.restored - self.kept[key])
                self.kept[key] = mark.restored

    def _backward_temporaries(self, chunk: Chunk, index: int, microbatch: int | None) -> int:
        """Gradients grow into place, or are made apart and then added to what is there."""
        mark, parameters = chunk.footprints[index], chunk.parameters[index]
        in_bucket = self._lies_in_bucket(chunk, microbatch)
        there = in_bucket or all(parameter.name in self.made for parameter in parameters)
        needed = mark.accumulating if there and parameters else mark.backward
        return needed + (self._tied_bytes(chunk) if index == 0 else 0)

    def _tied_bytes(self, chunk: Chunk) -> int:
        """Give the bytes of the tied weight where its two gradients meet: their sum is a third tensor."""
        tied = [p for parameters in chunk.parameters for p in parameters if p.name == TIED_WEIGHT]
        return tied[0].size_bytes if len(tied) > 1 else 0

    def _made(self, chunk: Chunk, index: int, microbatch: int | None) -> None:
        """Note the gradients that a pass has made: those that were not there, and the one that waits for another."""
        for parameter in chunk.parameters[index]:
            waits = parameter.name == TIED_WEIGHT and index > 0 and self._tied_bytes(chunk) > 0
            if parameter.name not in self.made and not self._lies_in_bucket(chunk, microbatch):
                self._add("gradients", parameter.size_bytes)
                self.made[parameter.name] = parameter.size_bytes
            elif waits:
                self.waiting[microbatch] = parameter.size_bytes
                self._add("gradients", parameter.size_bytes)
            elif parameter.name == TIED_WEIGHT:
                self._add("gradients", -self.waiting.pop(microbatch, 0))
            if not waits and self._lies_in_bucket(chunk, microbatch):  # what microbatches before have made goes there
                self._add("gradients", -self.made.pop(parameter.name, 0))

    def _lies_in_bucket(self, chunk: Chunk, microbatch: int | None) -> bool:
        """Tell whether gradients of a microbatch go to the buckets: those of the last do."""
        return self.account.gradients == "bucketed" and microbatch == self.last[chunk.first_layer]

    def _leave(self, chunk: Chunk, index: int) -> None:
        """Give up the units that a backward pass has used for the last time."""
        if self.account.gradients != "scattered":
            return
        block = chunk.blocks[index]
        if block is not None and block not in chunk.blocks[:index]:
            self._give_up(self._number(chunk, block))
        if index == 0:
            self._give_up(self._number(chunk, None))

    def _begun(self, effect: Acts) -> Entry:
        if not isinstance(effect, Collective) or effect.bucket is None:
            return self._entry(effect)
        unit, of_experts = self._unit(effect.bucket)
        shard = effect.size_bytes // (self.account.expert_shard_ranks if of_experts else self.account.shard_ranks)
        if _gathers_a_unit(effect):
            return self._entry(effect, effect.size_bytes, communication=self._buffer("next unit", effect.size_bytes))
        if effect.kind == "reduce_scatter" and self.account.gradients == "scattered":
            before = self.buffers.pop("scatter", 0)
            self._add("communication", -before)
            self.buffers["scatter"] = effect.size_bytes
            apart = self.account.expert_shard_ranks != self.account.shard_ranks
            own = (p for p in self.units[unit] if (apart and is_expert(p)) == of_experts)
            left = sum(self.made.pop(parameter.name, 0) for parameter in own)
            return self._entry(effect, effect.size_bytes, communication=effect.size_bytes, gradients=shard - left)
        if effect.kind == "reduce_scatter":
            return self._entry(effect, 0, communication=self._buffer(f"bucket {effect.bucket}", shard))
        return self._entry(effect)

    def _waited(self, wait: Wait) -> Entry:
        """Copy a unit out of its buffer, which goes at once, or in a forward pass when the next one has arrived."""
        effect = wait.handle.effect
        if not isinstance(effect, Collective) or not _gathers_a_unit(effect):
            return self._entry(wait)
        self._add("communication", -self.buffers.pop("last unit", 0))
        arrived = self.buffers.pop("next unit", 0)
        unit, _ = self._unit(effect.bucket or 0)
        self.gathered[unit] = self.gathered.get(unit, 0) + effect.size_bytes
        entry = self._entry(wait, effect.size_bytes, gathered_parameters=effect.size_bytes)
        if effect.during == "forward":
            self.buffers["last unit"] = arrived
        else:
            self._add("communication", -arrived)
        return entry._replace(after=self.held)

    def _unit(self, bucket: int) -> tuple[int, bool]:
        """Give a unit's number without its experts, and whether the bucket is of these alone."""
        return without_experts(bucket, self.account.blocks) if self.account.gradients == "scattered" else (0, False)

    def _number(self, chunk: Chunk, block: Unit) -> int:
        return unit_number(block, self.account.blocks, begins=chunk.begins)

    def _updated(self, effect: Compute) -> Entry:
        """Update the parameters, and clear the gradients."""
        self._add("communication", -sum(self.buffers.values()))
        self.buffers.clear()
        cleared = 0 if self.account.gradients == "bucketed" else self.held.gradients
        self.made.clear()
        return self._entry(effect, self.account.optimizer_scratch_bytes, gradients=-cleared)

    def _buffer(self, name: str, size_bytes: int) -> int:
        self.buffers[name] = self.buffers.get(name, 0) + size_bytes
        return size_bytes

    def _give_up(self, unit: int) -> None:
        self._add("gathered_parameters", -self.gathered.pop(unit, 0))

    def _add(self, name: str, size_bytes: int) -> None:
        if size_bytes:
            self.held = self.held._replace(**{name: getattr(self.held, name) + size_bytes})

    def _place(self, layer: int) -> tuple[Chunk, int]:
        chunk = next(each for each in self.account.chunks if 0 <= layer - each.first_layer < len(each.footprints))
        return chunk, layer - chunk.first_layer


def _gathers_a_unit(effect: Collective) -> bool:
    return effect.kind == "all_gather" and effect.bucket is not None and effect.during is not None
