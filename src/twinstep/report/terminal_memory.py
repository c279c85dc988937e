"""What the terminal says of memory: what ranks were predicted to hold, beside what they were measured to hold."""

from __future__ import annotations

from rich.console import Console

from twinstep.report import words
from twinstep.report.cells import line, table
from twinstep.report.contents import Contents
from twinstep.report.memory_rows import memory_parts, memory_rows

_MOST_RANKS = 8


def show_memory(contents: Contents, console: Console) -> None:
    """Print all parts of the fullest rank, and the peaks of the others, where memory was measured; else why not."""
    measurement = contents.measurement
    if measurement is None:
        return
    rows = memory_rows(contents)
    if measurement.memory_by_rank:
        fullest, *others = sorted(rows, key=lambda row: (-row.peak, row.rank))
        sides = ("predicted", "measured", "error") if contents.prediction else ("measured",)
        cut = len(rows) > _MOST_RANKS
        shown = table(f"Memory ({_MOST_RANKS} fullest of {len(rows)} ranks)" if cut else "Memory", *sides)
        cells = [(fullest, part) for part in memory_parts(rows)] + [(row, "peak") for row in others[: _MOST_RANKS - 1]]
        for row, part in cells:
            shown.add_row(line(f"{part.replace('_', ' ')}, {row.name}"), *row.cells(part))
        console.print(shown)
    if said := words.measured_memory_words(measurement):
        console.print(line(said))
        console.print()
