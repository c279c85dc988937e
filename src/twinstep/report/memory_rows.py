"""Memory rows: what each rank holds, predicted, measured, and the errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from twinstep.memory_use import MemoryUse, memory_errors
from twinstep.report import terms, words
from twinstep.report.contents import Contents
from twinstep.units import format_size


class MemoryRow(NamedTuple):
    """A rank."""

    rank: int
    name: str
    predicted: MemoryUse | None
    measured: MemoryUse | None

    @property
    def errors(self) -> Mapping[str, float | None]:
        """Give signed fractions by part; nothing where one side is missing."""
        return memory_errors(self.predicted, self.measured) if self.predicted and self.measured else {}

    @property
    def peak(self) -> int:
        """The measured peak where there is one, else the predicted one, in bytes."""
        found = self.measured or self.predicted
        return found.peak if found else 0

    @property
    def sides(self) -> list[str]:
        """Name what there is of predicted, measured, error."""
        present = {"predicted": self.predicted, "measured": self.measured, "error": self.errors}
        return [side for side, found in present.items() if found]

    def cells(self, part: str) -> list[str]:
        """Give the words of a part, one a side."""
        sizes = [_size_words(getattr(use, part)) for use in (self.predicted, self.measured) if use]
        return [*sizes, words.error_words(self.errors[part])] if self.errors else sizes


def memory_rows(contents: Contents) -> list[MemoryRow]:
    """Give a row a rank that either side knows of."""
    predicted, measured = (side.memory_by_rank if side else {} for side in (contents.prediction, contents.measurement))
    names = terms.rank_names(contents)
    return [
        MemoryRow(rank, names.get(rank, f"rank {rank}"), predicted.get(rank), measured.get(rank))
        for rank in sorted({*predicted, *measured})
    ]


def memory_parts(rows: Sequence[MemoryRow]) -> list[str]:
    """List the parts to show: fragmentation where some rank has any."""
    uses = [use for row in rows for use in (row.predicted, row.measured) if use]
    return [part for part in MemoryUse._fields if part != "fragmentation" or any(use.fragmentation for use in uses)]


def _size_words(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_size(size_bytes)
