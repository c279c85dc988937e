"""Buckets: gradients that are communicated together.

Gradients become complete from the last layer to the first. A parameter that several layers read (a tied head) is
complete when the first of these layers has done its backward pass. Buckets are filled in that order and closed as soon
as they have reached the size limit, so one large parameter may exceed it; every parameter is in exactly one bucket.

    backward pass   layer 3   layer 2   layer 1   layer 0
    bucket          |---- 0 -------|    |---- 1 ------|      bucket 0 travels during layers 1 and 0

Torch's `replicate` has no limit: what travels together is a block, and what is in no block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twinstep.workloads import Layer, Parameter


@dataclass(frozen=True, slots=True)
class Bucket:
    """Parameters whose gradients travel in one all-reduce."""

    index: int
    parameters: tuple[Parameter, ...]
    ready_after_layer: int
    """The layer whose backward pass completes the bucket."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all gradients in it."""
        return sum(parameter.size_bytes for parameter in self.parameters)


def fill_buckets(layers: Sequence[Layer], limit_bytes: int) -> tuple[Bucket, ...]:
    """Put every parameter into a bucket, in the order in which gradients become complete.

    >>> a, b = Parameter("a", (2,)), Parameter("b", (3,))
    >>> layers = [Layer(p.name, (p,), (), (), activation_bytes=0) for p in (a, b)]
    >>> [(bucket.size_bytes, bucket.ready_after_layer) for bucket in fill_buckets(layers, limit_bytes=8)]
    [(12, 1), (8, 0)]
    """
    first_reader: dict[Parameter, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters:
            first_reader.setdefault(parameter, index)
    buckets: list[Bucket] = []
    filling: list[Parameter] = []
    for index in reversed(range(len(layers))):
        for parameter in reversed(layers[index].parameters):
            if first_reader[parameter] != index:
                continue
            filling.append(parameter)
            if sum(p.size_bytes for p in filling) >= limit_bytes:
                buckets.append(Bucket(len(buckets), tuple(filling), index))
                filling = []
    if filling:
        buckets.append(Bucket(len(buckets), tuple(filling), first_reader[filling[-1]]))
    return tuple(buckets)


def buckets_by_unit(layers: Sequence[Layer], blocks: Sequence[int | None]) -> tuple[Bucket, ...]:
    """Put the parameters of each block into a bucket, and those of layers in no block (None) into the last.

    >>> a, b, c = (Parameter(name, (2,)) for name in "abc")
    >>> layers = [Layer(p.name, (p,), (), (), activation_bytes=0) for p in (a, b, c)]
    >>> [(bucket.size_bytes, bucket.ready_after_layer) for bucket in buckets_by_unit(layers, [None, 0, None])]
    [(8, 1), (16, 0)]
    """
    units: dict[int | None, dict[Parameter, None]] = {}
    for block, layer in sorted(zip(blocks, layers, strict=True), key=lambda pair: -1 if pair[0] is None else pair[0]):
        units.setdefault(block, {}).update(dict.fromkeys(layer.parameters))
    filled = [(unit, tuple(units[unit])) for unit in reversed(units) if units[unit]]
    return tuple(
        Bucket(index, parameters, 0 if unit is None else blocks.index(unit))
        for index, (unit, parameters) in enumerate(filled)
    )
