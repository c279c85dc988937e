"""Pieces: what a pass of a part of a model is made of.

A piece is kernels, and perhaps exchanges with other ranks that go on meanwhile; the next begins when all are
complete. A half of a block on tensor-parallel ranks, with sequence parallelism, on 3 context-parallel ranks:

    kernels | sum
    norm | gather | products | scatter | residual sum
    products | block, shift | block, shift | block | product

where "block, shift" is one piece: the attention to one block of keys and values while the next travels round the ring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Literal

from twinstep.effects import Collective, Compute, Transfer
from twinstep.kernels import Kernel
from twinstep.programs.script import Line, begin, do, wait
from twinstep.splits import Splits
from twinstep.timeline import CollectiveKind, Phase


@dataclass(frozen=True, slots=True)
class Exchange:
    """A communication of a rank's own group of a kind; a `shift` sends to the next rank and receives from the last."""

    kind: CollectiveKind | Literal["shift"]
    group: str
    size_bytes: int
    """As `Collective.size_bytes`; of a shift, those of the message."""
    splits: Splits | None = None
    """The parts of an all_to_all that are unequal."""
    position: int = 0
    """The rank's own in the group, where parts are unequal."""

    @property
    def received_bytes(self) -> int:
        """Give what the rank gets of an all_to_all; of all others, `size_bytes`."""
        return sum(self.splits.received_bytes(self.position)) if self.splits else self.size_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Kernels and exchanges, side by side; either may be missing."""

    kernels: tuple[Kernel, ...] = ()
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """Where in a step pieces stand: it names their operations."""

    phase: Phase
    layer: int
    microbatch: int
    ring: tuple[int, int] = (0, 1)
    """Position in the context-parallel group, and its size."""


def lines_of(pieces: Sequence[Piece], where: Where) -> list[Line]:
    """Give the lines of a pass; computations and exchanges are numbered where there are several of a kind."""
    computed = sum(1 for piece in pieces if piece.kernels)
    kinds = [exchange.kind for piece in pieces for exchange in piece.exchanges]
    rounds = {name: count() if kinds.count(name) > 1 else None for name in kinds}
    computations = count() if computed > 1 else None
    lines: list[Line] = []
    for piece in pieces:
        begun = [
            effect for exchange in piece.exchanges for effect in _effects(exchange, where, _next(rounds[exchange.kind]))
        ]
        lines += map(begin, begun)
        if piece.kernels:
            number = _next(computations)
            lines.append(do(Compute(where.phase, piece.kernels, where.layer, where.microbatch, round=number)))
        lines += map(wait, begun)
    return lines


def _next(numbers: Iterator[int] | None) -> int | None:
    return next(numbers) if numbers else None


def _effects(exchange: Exchange, where: Where, number: int | None) -> list[Collective | Transfer]:
    if exchange.kind != "shift":
        return [
            Collective(
                exchange.kind,
                exchange.group,
                exchange.size_bytes,
                lane=exchange.group,
                round=number,
                layer=where.layer,
                microbatch=where.microbatch,
                during=where.phase,
                splits=exchange.splits,
            )
        ]
    position, size = where.ring
    message = partial(
        Transfer,
        group=exchange.group,
        size_bytes=exchange.size_bytes,
        lane=f"{exchange.group} {where.phase}",
        layer=where.layer,
        microbatch=where.microbatch,
        round=number,
    )
    received = message("recv", source=(position - 1) % size, target=position)
    return [received, message("send", source=position, target=(position + 1) % size)]
