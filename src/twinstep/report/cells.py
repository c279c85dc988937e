"""Cells: lines of a user's text, and tables, as all terminal views print them."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text


def line(text: str, style: str = "") -> Text:
    """Make one line of a user's text: no markup, no control characters."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return Text(visible, style=style)


def table(title: str, *headings: str) -> Table:
    """Make a table without a frame: texts in the first column, numbers in the others."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    made.add_column(title, overflow="fold")
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    return made
