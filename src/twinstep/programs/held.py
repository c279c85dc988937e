"""Held: what a holding is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinstep.partition import Partition
from twinstep.programs.buckets import Bucket, buckets_by_unit, fill_buckets
from twinstep.programs.mesh import EXPERT_DATA
from twinstep.programs.parts import Part
from twinstep.programs.sharers import Sharers, sharers_of
from twinstep.programs.units import Unit, unit_number
from twinstep.synchronisation import Sync
from twinstep.workloads import Layer, Parameter


@dataclass(frozen=True, slots=True)
class Held:
    """What a holding is made for: some parameters of one chunk, and their place among all of a rank."""

    parts: Sequence[Part]
    sharers: Sharers
    partition: Partition
    sync: Sync
    first: int
    """The number of its first bucket."""
    model_blocks: int
    """Of the whole model."""
    by_wrappers: bool = False
    """Whether torch's wrappers hold them."""

    @property
    def by_unit(self) -> bool:
        """Tell whether what is replicated travels by units, too: with tensor parallelism, by torch's `replicate`."""
        return self.by_wrappers and self.partition.tensor > 1

    def has(self, parameter: Parameter) -> bool:
        """Tell whether a parameter is among them."""
        return sharers_of(parameter, self.partition) == self.sharers

    @property
    def layers(self) -> list[Layer]:
        """List the layers with these parameters alone."""
        layers = [part.layer for part in self.parts]
        return [replace(layer, parameters=tuple(filter(self.has, layer.parameters))) for layer in layers]

    @property
    def blocks(self) -> list[Unit]:
        """Give the block that each part belongs to."""
        return [part.block for part in self.parts]

    @property
    def units(self) -> dict[Unit, list[Parameter]]:
        """Give the parameters of each unit that has any."""
        found: dict[Unit, dict[Parameter, None]] = {}
        for block, layer in zip(self.blocks, self.layers, strict=True):
            found.setdefault(block, {}).update(dict.fromkeys(layer.parameters))
        return {unit: list(parameters) for unit, parameters in found.items() if parameters}

    def number_of(self, unit: Unit) -> int:
        """Number a unit."""
        of_experts = self.sharers.group == EXPERT_DATA
        return unit_number(unit, self.model_blocks, begins=self.parts[0].block is None, of_experts=of_experts)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Give what travels together where parameters are replicated."""
        if self.by_unit:
            return buckets_by_unit(self.layers, self.blocks)
        return fill_buckets(self.layers, self.sync.bucket)
