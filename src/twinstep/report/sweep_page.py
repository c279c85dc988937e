"""The page of a sweep: who is faster where, a line a combination over the axis of numbers, and a row a point."""

from __future__ import annotations

import plotly.graph_objects as go

from twinstep.report import sweep_words, words
from twinstep.report.chart import LINE_COLOURS, Chart, label, style
from twinstep.report.page import render_page
from twinstep.sweep import Line, Point, Side, Swept

_HEIGHT_PX = 420
_DASHES = ("solid", "dash", "dot", "dashdot")


def sweep_page(swept: Swept) -> str:
    """Draw a sweep as one self-contained HTML file."""
    return render_page(
        "sweep.html.j2",
        title=swept.scenario,
        swept=swept,
        chart=sweep_chart(swept),
        findings=sweep_words.findings(swept),
        headings=sweep_words.headings(swept),
        rows=sweep_words.rows(swept),
        problems=sweep_words.problems(swept),
    )


def sweep_chart(swept: Swept) -> Chart:
    """Draw step times over the axis: predicted as lines, measured as diamonds."""
    figure = go.Figure()
    legend = []
    for index, line in enumerate(swept.lines):
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        dash = _DASHES[index // len(LINE_COLOURS) % len(_DASHES)]
        legend.append((line.name, colour))
        figure.add_trace(_predicted(swept, line, colour, dash))
        if swept.agreement:
            figure.add_trace(_measured(swept, line, colour))
    _style_axes(figure, swept)
    scale = "Both axes are logarithmic. " if swept.axis.is_powers else ""
    diamonds = " Diamonds: measured." if swept.agreement else ""
    caption = f"{scale}Lines: predicted step times, where a plan is valid.{diamonds}"
    return Chart("sweep", "Step time", figure, caption, tuple(legend))


def _predicted(swept: Swept, line: Line, colour: str, dash: str) -> go.Scatter:
    return go.Scatter(
        name=line.name,
        mode="lines+markers" if swept.axis.numbers else "markers",
        x=[_x(swept, point) for point in line.points],
        y=[_ms(point.predicted) for point in line.points],
        line={"color": colour, "width": 1.5, "dash": dash},
        marker={"size": 6, "color": colour},
        hoverinfo="text",
        hovertext=[_hover(swept, line, point, "predicted", point.predicted) for point in line.points],
    )


def _measured(swept: Swept, line: Line, colour: str) -> go.Scatter:
    return go.Scatter(
        name=line.name,
        mode="markers",
        x=[_x(swept, point) for point in line.points],
        y=[_ms(point.measured) for point in line.points],
        marker={"size": 10, "symbol": "diamond-open", "color": colour},
        hoverinfo="text",
        hovertext=[_hover(swept, line, point, "measured", point.measured) for point in line.points],
    )


def _ms(side: Side | None) -> float | None:
    return round(1e3 * side.step_time_s, 6) if side else None


def _x(swept: Swept, point: Point) -> float:
    index = point.position[swept.along]
    return swept.axis.numbers[index] if swept.axis.numbers else index


def _hover(swept: Swept, line: Line, point: Point, name: str, side: Side | None) -> str:
    value = sweep_words.axis_words(swept.axis, point.position[swept.along])
    time = words.duration_words(side.step_time_s if side else None)
    return f"<b>{label(line.name)}</b><br>{label(swept.axis.name)} {label(value)}<br>{name} {time}"


def _style_axes(figure: go.Figure, swept: Swept) -> None:
    scale = "log" if swept.axis.is_powers else "linear"
    figure.update_xaxes(
        title={"text": label(swept.axis.name), "standoff": 8},
        type=scale,
        tickvals=swept.axis.numbers or list(range(len(swept.axis.values))),
        ticktext=[label(sweep_words.axis_words(swept.axis, index)) for index in range(len(swept.axis.values))],
        fixedrange=True,
    )
    figure.update_yaxes(title_text="ms a step", type=scale, automargin=True, fixedrange=True)
    if scale == "linear":
        figure.update_yaxes(rangemode="tozero")
    style(figure, _HEIGHT_PX)
    figure.update_layout(margin={"l": 8, "r": 12, "t": 12, "b": 56})
