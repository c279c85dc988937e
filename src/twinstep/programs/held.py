"""Held: what a holding is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinstep.partition import Partition
from twinstep.programs.buckets import Bucket, buckets_by_unit, fill_buckets
from twinstep.programs.parts import Part
from twinstep.programs.sharers import Sharers, sharers_of
from twinstep.programs.units import Unit
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
    def buckets(self) -> tuple[Bucket, ...]:
        """Give what travels together where parameters are replicated."""
        if self.by_unit:
            return buckets_by_unit(self.layers, self.blocks)
        return fill_buckets(self.layers, self.sync.bucket)
