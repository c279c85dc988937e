"""The terminal view of a sweep: who is faster where, then a row a point."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinstep.report import sweep_words
from twinstep.report.cells import line, table
from twinstep.sweep import Swept

_MOST_PROBLEMS = 10


def show_sweep(swept: Swept, console: Console) -> None:
    """Print what a sweep has found."""
    console.print(line(swept.scenario, "bold"))
    if swept.question:
        console.print(line(swept.question))
    console.print()
    for finding in sweep_words.findings(swept):
        console.print(line(finding, "bold"))
    console.print()
    console.print(_table(swept))
    problems = sweep_words.problems(swept)
    if problems:
        console.print()
        console.print(Text("Left out", style="bold"))
    for problem in problems[:_MOST_PROBLEMS]:
        console.print(line(f"- {problem}"))
    if len(problems) > _MOST_PROBLEMS:
        console.print(line(f"- and {len(problems) - _MOST_PROBLEMS} more in sweep.json"))


def _table(swept: Swept) -> Table:
    first, *others = sweep_words.headings(swept)
    rows = table(first, *others)
    for row in sweep_words.rows(swept):
        rows.add_row(*(line(cell) for cell in row))
    return rows
