"""What the terminal says of pipelines, and of waits by kind of group."""

from __future__ import annotations

from rich.console import Console

from twinstep.report import traffic, words
from twinstep.report.cells import line, table
from twinstep.report.contents import Contents


def show_groups(contents: Contents, console: Console) -> None:
    """Print what each kind of group communicates, exposed and hidden; nothing where there is one kind."""
    rows, sides = traffic.group_rows(contents), [name for name, _ in traffic.sides(contents)]
    if not rows:
        return
    parts = [part for _ in sides for part in ("exposed", "hidden")]
    headings = [f"{side}\n{part}" for side in sides for part in ("exposed", "hidden")] if len(sides) > 1 else parts
    shown = table("By kind of group", *headings)
    for kind, times in rows:
        cells = [words.duration_words(time_s) for each in times for time_s in (each.exposed_s, each.hidden_s)]
        shown.add_row(line(words.group_words(kind)), *cells)
    console.print(shown)
    console.print()


def show_bubbles(contents: Contents, console: Console) -> None:
    """Print how much of a step the ranks of a pipeline idle, and what the schedule alone makes of it."""
    sides = [
        (name, side.bubbles)
        for name, side in (("predicted", contents.prediction), ("measured", contents.measurement))
        if side and side.bubbles
    ]
    for name, found in sides:
        console.print(line(f"Bubble of the pipeline, {name}: {words.bubble_words(found)}."))
    if sides and (said := words.closed_form_words(sides[0][1])):
        console.print(line(said))
    if sides:
        console.print()
