"""Wrapped: what torch's DTensor adds to the kernels of tensor-parallel ranks: its own time on the host.

Each module under a style of tensor parallelism takes what a trivially small one was measured to take, whatever its
size: the product into a half's core is split by columns, the one out of it by rows. Norms are DTensors with sequence
parallelism alone. Legend of the kernels' axis: u = 1 where each rank has the whole residual stream, 2 where ranks share
its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from twinstep.kernels import Kernel
from twinstep.partition import Partition
from twinstep.programs.parts import Part
from twinstep.programs.pieces import Piece


def wrapped(part: Part, partition: Partition) -> Part:
    """Add what DTensor takes to each piece of a part of a model."""
    layout = 1 + partition.sequence_parallel

    def pieces(some: tuple[Piece, ...]) -> tuple[Piece, ...]:
        return tuple(replace(piece, kernels=(*piece.kernels, *_added(part, piece, layout))) for piece in some)

    return replace(part, forward=pieces(part.forward), backward=pieces(part.backward))


def updated(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """Have an optimizer update DTensors."""
    return tuple(
        replace(kernel, name=f"dtensor_{kernel.name}") if "p" in kernel.axes and "j" in kernel.axes else kernel
        for kernel in kernels
    )


def _added(part: Part, piece: Piece, layout: int) -> Iterator[Kernel]:
    """Give what comes with the kernels of a piece."""
    products = [kernel.shape for kernel in part.layer.forward if kernel.name == "linear_forward"]
    lookups = [kernel.shape for kernel in part.layer.forward if kernel.name == "embedding_forward"][:1]
    for kernel in piece.kernels:
        kind, _, direction = kernel.name.rpartition("_")
        if kind == "linear":
            is_last = part.block is not None and kernel.shape == products[-1]
            yield Kernel(f"dtensor_{'row' if is_last else 'column'}_{direction}", (layout,))
        elif kind == "embedding" and kernel.shape in lookups:
            yield Kernel(f"dtensor_embedding_{direction}", (layout,))
        elif kind == "layer_norm" and layout > 1:
            yield Kernel(f"dtensor_norm_{direction}", (layout,))
        elif kind == "cross_entropy":
            yield Kernel(f"dtensor_loss_{direction}", ())
