"""The charts of the communication: what of it was exposed and what hidden, and how busy the links were."""

from __future__ import annotations

import plotly.graph_objects as go

from twinstep.communication import LinkCounts, LinkUse
from twinstep.report import words
from twinstep.report.chart import (
    LINE_COLOURS,
    MEASURED_COLOUR,
    PHASE_COLOURS,
    PREDICTED_COLOUR,
    Chart,
    label,
    style,
    style_names,
)
from twinstep.report.contents import Contents, Prediction
from twinstep.report.traffic import Crossing, crossings, link_name, links, sides
from twinstep.units import format_size

_MOST_LINKS = 24
_COLOURS = {"exposed": PHASE_COLOURS["exposed_communication"], "hidden": PHASE_COLOURS["communication"]}


def traffic_charts(contents: Contents) -> list[Chart]:
    """Draw what there is to draw of the communication; nothing where there is none."""
    drawn = [_overlap_chart(contents)] if sides(contents) else []
    if contents.prediction and links(contents):
        drawn.append(_links_chart(contents, contents.prediction, links(contents)))
    counts = contents.measurement.counts if contents.measurement else None
    if counts and counts.links:
        drawn.append(_course_chart(counts))
    return drawn


def _overlap_chart(contents: Contents) -> Chart:
    """Stack the exposed and the hidden time, a bar a side."""
    found = sides(contents)
    figure = go.Figure()
    for part, colour in _COLOURS.items():
        times_s = [side.exposed_s if part == "exposed" else side.hidden_s for _, side in found]
        figure.add_bar(
            orientation="h",
            name=part,
            x=[round(1e3 * time_s, 6) for time_s in times_s],
            y=list(range(len(found))),
            marker={"color": colour},
            hoverinfo="text",
            hovertext=[
                f"<b>{name}</b><br>{part} {words.duration_words(time_s)}"
                for (name, _), time_s in zip(found, times_s, strict=True)
            ],
        )
    style_names(figure, {y: name for y, (name, _) in enumerate(found)}, len(found))
    figure.update_xaxes(title={"text": "ms a step", "standoff": 8}, rangemode="tozero", fixedrange=True)
    style(figure, 56 + 30 * len(found))
    figure.update_layout(barmode="stack", bargap=0.3, margin={"l": 8, "r": 12, "t": 8, "b": 48})
    caption = (
        "Exposed is the time in which a rank waits for communication; hidden is the time in which it computes "
        "while communication of its own is under way. Of the mean rank, medians over the steps."
    )
    return Chart("communication", "Communication", figure, caption, tuple(_COLOURS.items()))


def _links_chart(contents: Contents, prediction: Prediction, used: list[LinkUse]) -> Chart:
    """Draw the busiest links, a bar each, as long as its utilisation; a mark shows what was counted."""
    shown = used[:_MOST_LINKS]
    counted = {crossing.name: crossing for crossing in crossings(contents)}
    percent = [round(100 * link.utilisation, 3) for link in shown]
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=percent,
            y=list(range(len(shown))),
            text=[words.utilisation_words(link.utilisation) for link in shown],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            marker={"color": PREDICTED_COLOUR},
            hoverinfo="text",
            hovertext=[_hover(link) for link in shown],
        )
    )
    known = [(y, counted[link_name(link)]) for y, link in enumerate(shown) if link_name(link) in counted]
    if known:
        figure.add_scatter(
            x=[round(100 * crossing.counted.utilisation, 3) for _, crossing in known],
            y=[y for y, _ in known],
            mode="markers",
            marker={"color": MEASURED_COLOUR, "symbol": "diamond", "size": 9},
            hoverinfo="text",
            hovertext=[_counted_hover(crossing) for _, crossing in known],
        )
    style_names(figure, {y: link_name(link) for y, link in enumerate(shown)}, len(shown))
    figure.update_xaxes(title={"text": "% of the bandwidth", "standoff": 8}, range=[0, 100], fixedrange=True)
    style(figure, 56 + 22 * len(shown))
    figure.update_layout(bargap=0.3, margin={"l": 8, "r": 54, "t": 8, "b": 48})
    caption = _links_caption(prediction, used)
    if not known:
        return Chart("links", "Links", figure, caption)
    errors = [abs(crossing.error) for crossing in counted.values() if crossing.error is not None]
    agreement = f"Of all {len(errors)} links the bytes differ by {100 * max(errors, default=0.0):.1f} % at most."
    caption = f"{caption} Diamonds: what the kernel counted, acknowledgements and set-up included. {agreement}"
    return Chart("links", "Links", figure, caption, (("predicted", PREDICTED_COLOUR), ("counted", MEASURED_COLOUR)))


def _counted_hover(crossing: Crossing) -> str:
    error = words.error_words(crossing.error)
    size = format_size(crossing.counted.size_bytes)
    return f"<b>{label(crossing.name)}</b><br>{size} counted in the run<br>bytes predicted {error}"


def _course_chart(counts: LinkCounts) -> Chart:
    """Draw how busy the busiest links were from one reading of the counters to the next."""
    shown = sorted(counts.links, key=lambda link: -link.utilisation)[: len(LINE_COLOURS)]
    figure = go.Figure()
    for link, colour in zip(shown, LINE_COLOURS, strict=False):
        percent = [round(100 * share, 2) for share in link.course]
        figure.add_scatter(
            x=[round(time_s, 4) for time_s in counts.times_s[1:]],
            y=percent,
            mode="lines",
            line={"color": colour, "width": 1.5, "shape": "vh"},
            hoverinfo="text",
            hovertext=[f"<b>{label(link_name(link))}</b><br>{value:.0f} %" for value in percent],
        )
    figure.update_xaxes(title={"text": "s of the run", "standoff": 8}, fixedrange=True)
    figure.update_yaxes(title={"text": "% of the bandwidth"}, rangemode="tozero", fixedrange=True)
    style(figure, 240)
    figure.update_layout(margin={"l": 48, "r": 12, "t": 8, "b": 48})
    legend = tuple((link_name(link), colour) for link, colour in zip(shown, LINE_COLOURS, strict=False))
    caption = (
        f"The {len(shown)} busiest of {len(counts.links)} links over the whole run, start and warm-up included, as the "
        "kernel's counters were read, several times a second."
    )
    return Chart("linkcourse", "Links over time", figure, caption, legend)


def _hover(link: LinkUse) -> str:
    return (
        f"<b>{label(link_name(link))}</b><br>{words.utilisation_words(link.utilisation)} used<br>"
        f"{format_size(link.size_bytes)} in the run<br>{words.duration_words(link.queueing_s)} of waiting"
    )


def _links_caption(prediction: Prediction, used: list[LinkUse]) -> str:
    which = f"All {len(used)} links that carried anything, predicted, the busiest first."
    if len(used) > _MOST_LINKS:
        highest, lowest = (words.utilisation_words(used[at].utilisation) for at in (_MOST_LINKS, -1))
        rest = highest if highest == lowest else f"{lowest} to {highest}"
        which = (
            f"Predicted: the busiest {_MOST_LINKS} of {len(used)} links that carried anything; the others used {rest}."
        )
    return (
        f"{which} Each direction of a link counts for itself, over all {prediction.timeline.total_steps} steps, warm-up"
        " included. The length of a bar is the utilisation: the bytes that crossed, as a part of what the link could "
        f"have carried from the beginning of the run to its end. {words.WAITING}"
    )
