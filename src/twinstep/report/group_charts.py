"""The chart of waits by kind of group: what tensor-, data- and pipeline-parallel ranks wait for, and what is hidden."""

from __future__ import annotations

import plotly.graph_objects as go

from twinstep.report import traffic, words
from twinstep.report.chart import PHASE_COLOURS, Chart, label, style, style_names
from twinstep.report.contents import Contents

_COLOURS = {"exposed": PHASE_COLOURS["exposed_communication"], "hidden": PHASE_COLOURS["communication"]}
_BAR_PX = 20
_BETWEEN = 0.5
"""Space between two kinds, in bars."""


def group_charts(contents: Contents) -> list[Chart]:
    """Draw exposed and hidden seconds of each kind of group, a bar a side; nothing where there is one kind at most."""
    rows, sides = traffic.group_rows(contents), [name for name, _ in traffic.sides(contents)]
    if not rows:
        return []
    bars = [
        (row * (len(sides) + _BETWEEN) + side, _name(kind, sides, side), times[side])
        for row, (kind, times) in enumerate(rows)
        for side in range(len(sides))
    ]
    figure = go.Figure()
    for part, colour in _COLOURS.items():
        times_s = [each.exposed_s if part == "exposed" else each.hidden_s for _, _, each in bars]
        figure.add_bar(
            orientation="h",
            name=part,
            x=[round(1e3 * time_s, 6) for time_s in times_s],
            y=[y for y, _, _ in bars],
            width=0.8,
            marker={"color": colour},
            hoverinfo="text",
            hovertext=[
                f"<b>{label(name)}</b><br>{part} {words.duration_words(time_s)}"
                for (_, name, _), time_s in zip(bars, times_s, strict=True)
            ],
        )
    length = bars[-1][0] + 1
    style_names(figure, {y: name for y, name, _ in bars}, length)
    figure.update_xaxes(title={"text": "ms a step", "standoff": 8}, rangemode="tozero", fixedrange=True)
    style(figure, 56 + round(length * _BAR_PX))
    figure.update_layout(barmode="stack", margin={"l": 8, "r": 12, "t": 8, "b": 48})
    caption = (
        "Exposed and hidden time of the mean rank by the kind of group that communicates. What is hidden of several "
        "kinds at once counts for each of them. Pipeline and tied embedding include waiting for a stage that is still "
        "computing: the bubbles."
    )
    return [Chart("groups", "Communication by kind of group", figure, caption, tuple(_COLOURS.items()))]


def _name(kind: str, sides: list[str], side: int) -> str:
    """Name a bar; the second of a kind has the side's name alone."""
    if side > 0:
        return sides[side]
    return words.group_words(kind) if len(sides) == 1 else f"{words.group_words(kind)}, {sides[side]}"
