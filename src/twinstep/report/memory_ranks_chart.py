"""The chart of ranks' peaks of memory: predicted beside measured."""

from __future__ import annotations

import plotly.graph_objects as go

from twinstep.report import terms, words
from twinstep.report.chart import MEASURED_COLOUR, MOST_RANKS, PREDICTED_COLOUR, Chart, label, style, style_names
from twinstep.report.contents import Contents
from twinstep.report.memory_rows import MemoryRow, memory_rows
from twinstep.units import format_size

_BYTES_PER_MIB = 1 << 20


def shown_rows(contents: Contents) -> list[MemoryRow]:
    """Choose the ranks of the chart and its table; none where nothing was measured and all have the same peak."""
    chosen = terms.chosen_ranks(contents, MOST_RANKS)
    rows = [row for row in memory_rows(contents) if row.rank in chosen]
    is_measured = any(row.measured for row in rows)
    return rows if is_measured or len({row.peak for row in rows}) > 1 else []


def memory_ranks_charts(contents: Contents) -> list[Chart]:
    """Draw the peak of each rank, a bar a side."""
    rows = shown_rows(contents)
    if not rows:
        return []
    sides = [
        (name, colour, [use.peak for use in uses if use])
        for name, colour, uses in (
            ("predicted", PREDICTED_COLOUR, [row.predicted for row in rows]),
            ("measured", MEASURED_COLOUR, [row.measured for row in rows]),
        )
        if None not in uses
    ]
    figure = go.Figure()
    for name, colour, peaks in sides:
        figure.add_bar(
            orientation="h",
            name=name,
            x=[round(peak / _BYTES_PER_MIB, 6) for peak in peaks],
            y=[*range(len(rows))],
            marker={"color": colour},
            hoverinfo="text",
            hovertext=[
                f"<b>{label(row.name)}</b><br>{name} {format_size(peak)}" for row, peak in zip(rows, peaks, strict=True)
            ],
        )
    if len(sides) > 1:
        figure.add_trace(_error_labels(rows))
    style_names(figure, {y: row.name for y, row in enumerate(rows)}, len(rows))
    figure.update_xaxes(title={"text": "MiB", "standoff": 8}, rangemode="tozero", fixedrange=True)
    style(figure, 56 + len(rows) * (18 + 14 * len(sides)))
    figure.update_layout(barmode="group", bargap=0.3, margin={"l": 8, "r": 70, "t": 8, "b": 48})
    legend = tuple((name, colour) for name, colour, _ in sides)
    return [Chart("memoryranks", "Memory by rank", figure, _caption(contents, rows), legend)]


def _error_labels(rows: list[MemoryRow]) -> go.Scatter:
    ends = [max(use.peak for use in (row.predicted, row.measured) if use) for row in rows]
    return go.Scatter(
        mode="text",
        x=[round(end / _BYTES_PER_MIB, 6) for end in ends],
        y=[*range(len(rows))],
        text=[f" {words.error_words(row.errors['peak'])}" for row in rows],
        textposition="middle right",
        textfont={"size": 12},
        cliponaxis=False,
        hoverinfo="skip",
    )


def _caption(contents: Contents, rows: list[MemoryRow]) -> str:
    measured = words.measured_memory_words(contents.measurement) if contents.measurement else ""
    labels = "At the end of each pair: the signed error." if any(row.errors for row in rows) else ""
    sentences = (terms.which_ranks(contents, len(rows)), "The most that each rank holds at a time.", labels, measured)
    return " ".join(filter(None, sentences))
