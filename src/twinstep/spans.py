"""Spans: operations of ranks, as a table of columns.

A long run has millions of spans and few kinds of them: what is done, where and on how many bytes. So a table has five
columns of numbers, one of which tells the kind, and statistics are sums over columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

Computation = Literal[
    "read", "load", "forward", "backward", "weight_gradients", "encode", "decode", "optimizer", "host_optimizer"
]
"""What a device computes; `read` is of parameters from shared memory, `encode` and `decode` are of compressed
gradients, and of copies into and out of what travels, and `host_optimizer` is the update by the host's processor."""
Phase = Computation | Literal["exposed_communication", "communication", "step"]


class Span(NamedTuple):
    """One operation of one rank, from either back end.

    Times are in seconds on an axis that all ranks of the run share; its origin is the release of the first step.
    """

    rank: int
    step: int
    """Steps count from 0, warm-up steps included."""
    lane: str
    """`compute`, `step`, or the name of a communication lane."""
    operation: str
    """What is done, with its coordinates, e.g. `backward[layer=3]`; with rank and step, the key of the span."""
    phase: Phase
    start_s: float
    end_s: float
    size_bytes: int = 0
    """The payload of a communication on this rank; 0 for compute."""
    group: str = ""
    """The group that communicates, e.g. `data`."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


class Kind(NamedTuple):
    """What spans of all ranks, steps and times may have in common."""

    lane: str
    operation: str
    phase: Phase
    size_bytes: int = 0
    group: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SpanTable(Sequence[Span]):
    """Spans by column; each column has one entry a span.

    >>> table = SpanTable.of([Span(0, 2, "compute", "forward", "forward", 0.5, 0.75)])
    >>> table.kinds, float(table.durations_s[0]), table[0].step
    ((Kind(lane='compute', operation='forward', phase='forward', size_bytes=0, group=''),), 0.25, 2)
    """

    rank: Ints
    step: Ints
    kind: Ints
    """The position in `kinds`."""
    start_s: Floats
    end_s: Floats
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, spans: Sequence[Span]) -> SpanTable:
        """Give spans as a table, which they may be already."""
        if isinstance(spans, SpanTable):
            return spans
        kinds: dict[Kind, int] = {}
        kind = [kinds.setdefault(Kind(*span[2:5], *span[7:]), len(kinds)) for span in spans]
        rank, step, *_ = zip(*spans, strict=True) if spans else ((), ())
        start_s, end_s = [span.start_s for span in spans], [span.end_s for span in spans]
        return cls(_ints(rank), _ints(step), _ints(kind), np.array(start_s, float), np.array(end_s, float), (*kinds,))

    @property
    def durations_s(self) -> Floats:
        """Lengths in seconds."""
        return self.end_s - self.start_s

    def has(self, is_meant: Callable[[Kind], bool]) -> Mask:
        """Tell of each span whether its kind is meant."""
        found: Mask = np.array([is_meant(kind) for kind in self.kinds], dtype=bool)[self.kind]
        return found

    def numbers(self, name_of: Callable[[Kind], object]) -> Ints:
        """Number what kinds are called, in the order of their names; give each span its kind's number."""
        names = [name_of(kind) for kind in self.kinds]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}  # type: ignore[type-var]
        found: Ints = _ints([numbers[name] for name in names])[self.kind]
        return found

    def chosen(self, which: Mask | Ints | slice) -> SpanTable:
        """Give some of the spans, in the order in which they are chosen."""
        return SpanTable(
            self.rank[which], self.step[which], self.kind[which], self.start_s[which], self.end_s[which], self.kinds
        )

    def __len__(self) -> int:
        return len(self.rank)

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> SpanTable: ...
    def __getitem__(self, index: int | slice) -> Span | SpanTable:
        if isinstance(index, slice):
            return self.chosen(index)
        position = range(len(self))[index]
        (span,) = self.chosen(slice(position, position + 1))
        return span

    def __iter__(self) -> Iterator[Span]:
        kinds = self.kinds
        columns = (self.rank, self.step, self.kind, self.start_s, self.end_s)
        for rank, step, kind, start_s, end_s in zip(*(column.tolist() for column in columns), strict=True):
            lane, operation, phase, size_bytes, group = kinds[kind]
            yield Span(rank, step, lane, operation, phase, start_s, end_s, size_bytes, group)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


def sums(number: Ints, values: Floats, size: int) -> Floats:
    """Add up the values of each number below `size`, in their order.

    >>> sums(np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0]), 4)
    array([2., 0., 4., 0.])
    """
    found: Floats = np.bincount(number, values, size).astype(np.float64, copy=False)
    return found


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)


class Groups(NamedTuple):
    """What has equal keys, numbered in the order in which keys come first."""

    number: Ints
    """That of each entry's group."""
    first: Ints
    """The position of each group's first entry."""

    @property
    def size(self) -> int:
        """How many groups there are."""
        return len(self.first)

    def sums(self, values: Floats, which: Mask) -> Floats:
        """Add up what some of the entries have, group by group, in their order."""
        return sums(self.number[which], values[which], self.size)


def groups_of(*columns: Ints) -> Groups:
    """Group entries with equal numbers, none of them negative, in all columns.

    >>> groups_of(np.array([7, 3, 7]), np.array([1, 0, 1])).number.tolist()
    [0, 1, 0]
    """
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        key = key * (1 + int(column.max(initial=0))) + column
    _, first, sorted_number = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return Groups(number[sorted_number], first[order])
