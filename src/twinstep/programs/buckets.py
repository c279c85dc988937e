"""Buckets: gradients that are communicated together.

Gradients become complete from the last layer to the first. A parameter that several layers read (a tied head) is
complete when the first of these layers has done its backward pass. Buckets are filled in that order and closed as soon
as they have reached the size limit, so one large parameter may exceed it; every parameter is in exactly one bucket.

    backward pass   layer 3   layer 2   layer 1   layer 0
    bucket          |---- 0 -------|    |---- 1 ------|      bucket 0 travels during layers 1 and 0
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
