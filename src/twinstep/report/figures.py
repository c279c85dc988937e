"""The charts of a report: timelines, error by phase, collective and rank, steps, loss, topology."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from twinstep.report import terms, words
from twinstep.report.chart import (
    MEASURED_COLOUR,
    MOST_RANKS,
    PREDICTED_COLOUR,
    UTILISATION_COLOURS,
    Chart,
    label,
    style,
    style_names,
)
from twinstep.report.contents import Contents, Measurement
from twinstep.report.group_charts import group_charts
from twinstep.report.memory_chart import memory_charts
from twinstep.report.memory_ranks_chart import memory_ranks_charts
from twinstep.report.progress_charts import progress_charts
from twinstep.report.staircase import staircase_chart
from twinstep.report.terms import Term
from twinstep.report.timelines import timelines_chart
from twinstep.report.traffic_charts import traffic_charts

_MOST_COLLECTIVES = 24
_MOST_MARKERS = 100
_SERIES_PX = 280
_TOPOLOGY_PX = 480


def charts(contents: Contents) -> dict[str, Chart]:
    """Draw every chart that there is something to draw for, by key, in the order of the page."""
    staircase = staircase_chart(contents)
    drawn = [*([staircase] if staircase else []), timelines_chart(contents)]
    drawn += [*memory_charts(contents), *memory_ranks_charts(contents), *_term_charts(contents)]
    drawn += [*traffic_charts(contents), *group_charts(contents)]
    if contents.measurement:
        drawn.append(_steps_chart(contents, contents.measurement))
        if any(map(math.isfinite, contents.measurement.losses)):
            drawn.append(_loss_chart(contents.measurement))
    drawn += progress_charts(contents)
    if contents.topology_figure is not None:
        links = contents.prediction.communication.links if contents.prediction else ()
        drawn.append(topology_chart(contents.topology_figure, coloured=bool(links)))
    return {chart.key: chart for chart in drawn}


def _term_charts(contents: Contents) -> list[Chart]:
    collectives = terms.collective_terms(contents)
    longest = terms.longest(collectives, _MOST_COLLECTIVES)
    ranks = terms.rank_terms(contents)
    names = terms.rank_names(contents)
    chosen = {names[rank] for rank in terms.chosen_ranks(contents, MOST_RANKS)}
    some_ranks = [term for term in ranks if term.name in chosen]
    return [
        _bar_chart(key, title, shown, caption)
        for key, title, shown, caption in (
            ("phases", "Phases", terms.phase_terms(contents), "Time a step of the mean rank."),
            ("collectives", "Collectives", longest, _collectives_caption(len(longest), len(collectives))),
            ("ranks", "Ranks", some_ranks, _ranks_caption(contents, len(some_ranks))),
        )
        if shown
    ]


def _collectives_caption(shown: int, total: int) -> str:
    which = f"The longest {shown} of {total} collectives. " if shown < total else ""
    table = f" The table has the longest {terms.MOST_ROWS}." if total > terms.MOST_ROWS else ""
    return f"{which}From the last rank's issue to the last end.{table}"


def _ranks_caption(contents: Contents, shown: int) -> str:
    lost = {rank for side in (contents.prediction, contents.measurement) if side for rank in side.timeline.lost}
    died = f" Not those that died: {', '.join(map(str, sorted(lost)))}." if lost else ""
    sentences = (terms.which_ranks(contents, shown), f"Step time of each rank.{died}", terms.slowest_words(contents))
    return " ".join(filter(None, sentences))


def _bar_chart(key: str, title: str, shown: list[Term], caption: str) -> Chart:
    """Draw a pair of bars a term, with the interquartile range as a whisker and the error in words."""
    figure = go.Figure()
    sides = (
        ("predicted", PREDICTED_COLOUR, [term.predicted_s for term in shown]),
        ("measured", MEASURED_COLOUR, [term.measured_s for term in shown]),
    )
    present = [side for side in sides if None not in side[2]]
    for name, colour, times_s in present:
        figure.add_trace(_bars(name, colour, times_s, shown))
    if any(term.error is not None for term in shown):
        figure.add_trace(_error_labels(shown))
        caption = f"{caption} At the end of each pair: the signed error."
    if any(term.measured_iqr_s for term in shown):
        caption = f"{caption} Whiskers: the interquartile range of the measured steps, centred on their median."
    style_names(figure, {y: words.term_words(term.name) for y, term in enumerate(shown)}, len(shown))
    figure.update_xaxes(title={"text": "ms", "standoff": 8}, rangemode="tozero", fixedrange=True)
    style(figure, 56 + len(shown) * (18 + 14 * len(present)))
    figure.update_layout(barmode="group", bargap=0.3, margin={"l": 8, "r": 70, "t": 8, "b": 48})
    return Chart(key, title, figure, caption, tuple((name, colour) for name, colour, _ in present))


def _bars(name: str, colour: str, times_s: list[float | None], shown: list[Term]) -> go.Bar:
    whiskers = None
    if name == "measured":
        halves_ms = [_ms((term.measured_iqr_s or 0.0) / 2) for term in shown]
        whiskers = {"type": "data", "array": halves_ms, "thickness": 1.5, "width": 3, "color": "#8a8f98"}
    return go.Bar(
        orientation="h",
        name=name,
        x=[_ms(time_s) for time_s in times_s],
        y=list(range(len(shown))),
        error_x=whiskers,
        marker={"color": colour},
        hoverinfo="text",
        hovertext=[_hover(term) for term in shown],
    )


def _error_labels(shown: list[Term]) -> go.Scatter:
    ends_s = [
        max(term.predicted_s or 0.0, (term.measured_s or 0.0) + (term.measured_iqr_s or 0.0) / 2) for term in shown
    ]
    return go.Scatter(
        mode="text",
        x=[_ms(end_s) for end_s in ends_s],
        y=list(range(len(shown))),
        text=["" if term.error is None else f" {words.error_words(term.error)}" for term in shown],
        textposition="middle right",
        textfont={"size": 12},
        cliponaxis=False,
        hoverinfo="skip",
    )


def _hover(term: Term) -> str:
    lines = [f"<b>{label(words.term_words(term.name))}</b>"]
    if term.predicted_s is not None:
        lines.append(f"predicted {words.duration_words(term.predicted_s)}")
    if term.measured_s is not None:
        spread = f"IQR {words.duration_words(term.measured_iqr_s)}, {term.measured_steps} steps"
        lines.append(f"measured {words.duration_words(term.measured_s)} ({spread})")
    if term.error is not None:
        lines.append(f"error {words.error_words(term.error)}")
    return "<br>".join(lines)


def _steps_chart(contents: Contents, measurement: Measurement) -> Chart:
    """Draw the measured steps, the predicted step time and its tolerance."""
    times_s = {step: max(by_rank.values()) for step, by_rank in sorted(measurement.timeline.steps().items())}
    figure = go.Figure(_series("measured", list(times_s), [_ms(time_s) for time_s in times_s.values()]))
    legend = [("measured, slowest rank", MEASURED_COLOUR)]
    caption = "Every step after the warm-up."
    if contents.prediction:
        predicted_ms = _ms(contents.prediction.timeline.step_time_s())
        figure.add_hline(y=predicted_ms, line={"color": PREDICTED_COLOUR, "width": 2})
        legend.append(("predicted", PREDICTED_COLOUR))
        if contents.tolerance < 1:
            low_ms, high_ms = predicted_ms / (1 + contents.tolerance), predicted_ms / (1 - contents.tolerance)
            figure.add_hrect(y0=low_ms, y1=high_ms, fillcolor=PREDICTED_COLOUR, opacity=0.18, line_width=0)
            caption = f"{caption} Band: where a measured median is within the tolerance of the prediction."
    return Chart("steps", "Steps", _over_steps(figure, "ms"), caption, tuple(legend))


def _loss_chart(measurement: Measurement) -> Chart:
    losses = [loss if math.isfinite(loss) else None for loss in measurement.losses]
    figure = go.Figure(_series("loss", list(range(len(losses))), losses))
    return Chart("loss", "Loss", _over_steps(figure, "loss"), "Every step, warm-up included.")


def topology_chart(drawing: Any, *, coloured: bool = False) -> Chart:
    """Put the words of the page around a drawing of a topology, whose links may be coloured by their utilisation."""
    figure = go.Figure(drawing)
    style(figure, figure.layout.height or _TOPOLOGY_PX)
    caption = "The graph that the plan runs on."
    if not coloured:
        return Chart("topology", "Topology", figure, caption)
    caption = f"{caption} The colour of a link is its predicted utilisation, that of its busier direction."
    return Chart("topology", "Topology", figure, caption, UTILISATION_COLOURS)


def _series(name: str, steps: list[int], values: list[float] | list[float | None]) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode="lines+markers" if len(steps) <= _MOST_MARKERS else "lines",
        x=steps,
        y=values,
        line={"color": MEASURED_COLOUR, "width": 1.5},
        marker={"size": 4},
        hovertemplate=f"step %{{x}}: %{{y:.4g}} {'ms' if name == 'measured' else ''}<extra></extra>",
    )


def _over_steps(figure: go.Figure, unit: str) -> go.Figure:
    figure.update_xaxes(title={"text": "step", "standoff": 8})
    figure.update_yaxes(title_text=unit, rangemode="tozero", automargin=True)
    style(figure, _SERIES_PX)
    return figure.update_layout(margin={"l": 8, "r": 12, "t": 12, "b": 48})


def _ms(time_s: float | None) -> float:
    return round(1e3 * (time_s or 0.0), 6)
