"""The charts of progress: the loss against steps and against time, and how old gradients are."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from twinstep.progress import Progress, staleness_distance
from twinstep.report.chart import MEASURED_COLOUR, PREDICTED_COLOUR, Chart, style
from twinstep.report.contents import Contents
from twinstep.report.words import rates_words

_HEIGHT_PX = 280
_MOST_MARKERS = 100

Sides = list[tuple[str, str, Progress]]
"""Name, colour and progress of what there is, the prediction first."""


def progress_charts(contents: Contents) -> list[Chart]:
    """Draw what the observations of a run give."""
    sides: Sides = []
    if contents.prediction:
        sides.append(("predicted", PREDICTED_COLOUR, contents.prediction.progress()))
    if contents.measurement:
        sides.append(("measured", MEASURED_COLOUR, contents.measurement.progress()))
    found = []
    if any(side.loss_by_step for *_, side in sides):
        found += [_loss_by_step_chart(sides), _loss_by_time_chart(sides)]
    if any(side.whole_loss_by_time for *_, side in sides):
        found.append(_whole_loss_chart(sides))
    if any(set(side.staleness) - {0} for *_, side in sides):
        found.append(_staleness_chart(sides))
    return found


def _loss_by_step_chart(sides: Sides) -> Chart:
    figure = go.Figure()
    for name, colour, side in sides:
        _add_line(figure, name, colour, list(range(len(side.loss_by_step))), list(side.loss_by_step))
    caption = "The mean of all workers in every step, warm-up included."
    return Chart("lossbystep", "Loss by step", _styled(figure, "step", "loss"), caption, _legend(sides))


def _loss_by_time_chart(sides: Sides) -> Chart:
    figure = go.Figure()
    for name, colour, side in sides:
        times_s = [round(at.time_s, 6) for at in side.loss_by_time]
        _add_line(figure, name, colour, times_s, [at.loss for at in side.loss_by_time])
    caption = "The mean of what each worker has observed last, from the beginning of the run."
    return Chart("lossbytime", "Loss by time", _styled(figure, "s of the run", "loss"), caption, _legend(sides))


def _whole_loss_chart(sides: Sides) -> Chart:
    figure = go.Figure()
    for name, colour, side in sides:
        times_s = [round(at.time_s, 6) for at in side.whole_loss_by_time]
        _add_line(figure, name, colour, times_s, [at.loss for at in side.whole_loss_by_time])
    caption = (
        "What the first worker's parameters lose on all samples. Workers have samples of their own, so that their own "
        "losses say little of all."
    )
    return Chart(
        "wholeloss", "Loss on all samples by time", _styled(figure, "s of the run", "loss"), caption, _legend(sides)
    )


def _staleness_chart(sides: Sides) -> Chart:
    figure = go.Figure()
    for name, colour, side in sides:
        figure.add_bar(
            name=name,
            x=list(side.staleness),
            y=[round(100 * share, 3) for share in side.staleness.values()],
            marker={"color": colour},
            hovertemplate=f"{name}: %{{y:.1f}} % of the gradients did not know %{{x}} updates<extra></extra>",
        )
    caption = "How many updates had been made that a gradient did not know when it was applied."
    if len(sides) == 2:
        distance = staleness_distance(sides[0][2], sides[1][2])
        caption = f"{caption} Total-variation distance of prediction and measurement: {distance:.2f}."
    caption = (
        f"{caption} Steps of all workers a second: {', '.join(_rate_words(name, side) for name, _, side in sides)}."
    )
    figure = _styled(figure, "updates", "% of the gradients")
    figure.update_xaxes(dtick=1 if max(map(max, (side.staleness for *_, side in sides))) <= 20 else None)
    return Chart("staleness", "Staleness", figure, caption, _legend(sides))


def _rate_words(name: str, side: Progress) -> str:
    """Say how fast a side's workers went on, and between which rates chance leaves them."""
    chance = f" ({rates_words(side)} in {len(side.rates_by_chance)} simulations)" if side.rates_by_chance else ""
    return f"{name} {side.worker_steps_per_s:.4g}{chance}"


def _add_line(figure: go.Figure, name: str, colour: str, x: list[float] | list[int], values: list[float]) -> None:
    figure.add_scatter(
        name=name,
        mode="lines+markers" if len(x) <= _MOST_MARKERS else "lines",
        x=x,
        y=[value if math.isfinite(value) else None for value in values],
        line={"color": colour, "width": 1.5},
        marker={"size": 4},
        hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
    )


def _styled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_xaxes(title={"text": x, "standoff": 8})
    figure.update_yaxes(title_text=y, rangemode="tozero", automargin=True)
    style(figure, _HEIGHT_PX)
    return figure.update_layout(margin={"l": 8, "r": 12, "t": 12, "b": 48})


def _legend(sides: Sides) -> tuple[tuple[str, str], ...]:
    return tuple((name, colour) for name, colour, _ in sides)
