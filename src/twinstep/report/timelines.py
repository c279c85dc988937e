"""The picture of the timelines: predicted above measured on one time axis, one row a lane of a rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from twinstep.report.chart import MOST_RANKS, PHASE_COLOURS, Chart, label, style, style_names
from twinstep.report.contents import Contents
from twinstep.report.lanes import lanes_in_order, rows_of
from twinstep.report.terms import chosen_ranks, rank_names, which_ranks
from twinstep.report.words import duration_words, term_words
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Span, Timeline
from twinstep.units import format_size

_MOST_BARS = 6000
_MOST_OVERLAPS = 6
_MOST_OUTLINED = 48
"""Bars of a lane up to which each has an outline; more are so narrow that they would be all outline."""
_GAP_BETWEEN_RANKS = 0.4
_FILLED = 0.84
_TITLE_PX = 34
_AXIS_PX = 48


@dataclass(frozen=True, slots=True)
class _Side:
    """What is drawn of one timeline: two steps at most, from where the first begins on its first rank."""

    title: str
    spans: tuple[Span, ...]
    begin_s: float
    step_end_s: float


@dataclass(frozen=True, slots=True)
class _Row:
    """The place of one lane of one rank; y grows downwards, one unit a lane."""

    rank: int
    lane: str
    y: float


def timelines_chart(contents: Contents) -> Chart:
    """Draw the representative step of each side and the step after it; the axis counts milliseconds."""
    sides = [
        (name, part.timeline)
        for name, part in (("predicted", contents.prediction), ("measured", contents.measurement))
        if part is not None
    ]
    ranks = _ranks_drawn(contents, [timeline for _, timeline in sides])
    drawn = [_side(name, timeline, set(ranks)) for name, timeline in sides]
    rows = _rows(ranks, [span for side in drawn for span in side.spans])
    phases = {span.phase for side in drawn for span in side.spans}
    return Chart(
        key="timelines",
        title="Timelines",
        figure=_figure(drawn, rows, rank_names(contents)),
        caption=_caption(which_ranks(contents, len(ranks))),
        legend=tuple((term_words(name), colour) for name, colour in PHASE_COLOURS.items() if name in phases),
    )


def _ranks_drawn(contents: Contents, timelines: list[Timeline]) -> list[int]:
    bars = sum(len(_first_steps(timeline)) / len(timeline.twins) for timeline in timelines)
    return chosen_ranks(contents, max(2, min(MOST_RANKS, int(_MOST_BARS / max(bars, 1)))))


def _first_steps(timeline: Timeline) -> list[Span]:
    step = timeline.representative_step()
    spans = timeline.table
    return list(spans.chosen((spans.step == step) | (spans.step == step + 1)))


def _side(name: str, timeline: Timeline, ranks: set[int]) -> _Side:
    step = timeline.representative_step()
    spans = _first_steps(timeline)
    whole = [span for span in spans if span.lane == STEP_LANE and span.step == step]
    return _Side(
        title=f"{name}: step {step}, {duration_words(max(span.duration_s for span in whole))}",
        spans=tuple(span for span in spans if span.rank in ranks and span.lane != STEP_LANE),
        begin_s=min(span.start_s for span in whole),
        step_end_s=max(span.end_s for span in whole),
    )


def _rows(ranks: list[int], spans: list[Span]) -> list[_Row]:
    lanes: dict[int, set[str]] = {rank: {COMPUTE_LANE} for rank in ranks}
    for span in spans:
        lanes[span.rank].add(span.lane)
    rows: list[_Row] = []
    y = 0.0
    for rank in ranks:
        for lane in lanes_in_order(lanes[rank]):
            rows.append(_Row(rank, lane, y))
            y += 1
        y += _GAP_BETWEEN_RANKS
    return rows


def _figure(sides: list[_Side], rows: list[_Row], rank_names: Mapping[int, str]) -> go.Figure:
    lane_px = 24 if len(rows) <= 8 else 16
    units = rows[-1].y + 1
    plot_px = units * lane_px
    inner_px = len(sides) * (plot_px + _TITLE_PX) - _TITLE_PX
    figure = make_subplots(
        rows=len(sides),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=_TITLE_PX / inner_px if len(sides) > 1 else 0,
    )
    for index, side in enumerate(sides, start=1):
        for bar in _bars(side, rows):
            figure.add_trace(bar, row=index, col=1)
        _mark_step(figure, side, index)
    names = {row.y: rank_names[row.rank] if row.lane == COMPUTE_LANE else row.lane for row in rows}
    style_names(figure, names, units)
    style(figure, round(inner_px) + _TITLE_PX + _AXIS_PX)
    figure.update_xaxes(range=[0, _end_ms(sides)], zeroline=False)
    figure.update_xaxes(title={"text": "ms from the start of the step", "standoff": 8}, row=len(sides), col=1)
    figure.update_layout(barmode="overlay", dragmode="zoom", margin={"l": 8, "r": 12, "t": _TITLE_PX, "b": _AXIS_PX})
    return figure


def _end_ms(sides: list[_Side]) -> float:
    return max(1e3 * (span.end_s - side.begin_s) for side in sides for span in side.spans)


def _mark_step(figure: go.Figure, side: _Side, index: int) -> None:
    """Write the side's title, and a line where its representative step ends."""
    end_ms = 1e3 * (side.step_end_s - side.begin_s)
    figure.add_vline(x=end_ms, row=index, col=1, line={"width": 1, "dash": "dot", "color": "#8a8f98"})
    domain = "y domain" if index == 1 else f"y{index} domain"
    figure.add_annotation(
        text=f"<b>{side.title}</b>",
        xref="paper",
        x=0,
        yref=domain,
        y=1,
        yanchor="bottom",
        yshift=4,
        showarrow=False,
        font_size=12,
    )


def _bars(side: _Side, rows: list[_Row]) -> Iterator[go.Bar]:
    """Draw one trace a phase."""
    places: dict[str, list[tuple[Span, float, float]]] = defaultdict(list)
    by_lane: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in side.spans:
        by_lane[span.rank, span.lane].append(span)
    for row in rows:
        for span, y, height in _placed(by_lane[row.rank, row.lane], row.y):
            places[span.phase].append((span, y, height))
    outline_px = 0.5 if max(map(len, by_lane.values()), default=0) <= _MOST_OUTLINED else 0
    for phase, colour in PHASE_COLOURS.items():
        if phase in places:
            spans, ys, heights = zip(*places[phase], strict=True)
            yield go.Bar(
                orientation="h",
                base=[round(1e3 * (span.start_s - side.begin_s), 6) for span in spans],
                x=[round(1e3 * span.duration_s, 6) for span in spans],
                y=list(ys),
                width=list(heights),
                marker={
                    "color": _narrowable(phase, colour),
                    "line": {"width": outline_px, "color": "rgba(255,255,255,0.7)"},
                },
                hoverinfo="text",
                hovertext=[_hover(span, side) for span in spans],
                name=term_words(phase),
            )


def _narrowable(phase: str, colour: str) -> str:
    """Let bars of the compute lane become narrower than a pixel.

    Plotly widens opaque bars to one, so that what is drawn last would cover its neighbours. A communication lane has
    one colour, and there the bars had better be seen.
    """
    return colour if phase == "communication" else f"rgba{(*bytes.fromhex(colour[1:]), 0.999)}"


def _placed(spans: list[Span], y: float) -> Iterator[tuple[Span, float, float]]:
    """Share a lane's height among the spans that overlap."""
    rows = rows_of(spans)
    depth = min(_MOST_OVERLAPS, 1 + max((row for row, _ in rows), default=0))
    height = _FILLED / depth
    for row, span in rows:
        yield span, round(y - _FILLED / 2 + (row % depth + 0.5) * height, 4), round(height, 4)


def _hover(span: Span, side: _Side) -> str:
    lines = [
        f"<b>{label(span.operation)}</b>",
        f"{duration_words(span.duration_s)}, from {duration_words(span.start_s - side.begin_s)}",
        f"rank {span.rank}, {label(span.lane)}, step {span.step}",
    ]
    if span.group:
        lines.append(f"{format_size(span.size_bytes)} in group {label(span.group)}")
    return "<br>".join(lines)


def _caption(which: str) -> str:
    return (
        f"{which or 'All ranks.'} Each side shows its representative step, the one nearest to the median, with the "
        "time of its slowest rank, and the next step; the dotted line is where its last rank ends. The row of a rank "
        "is its compute lane, those below are its communication lanes. Drag to zoom, shift-drag to move, "
        "double-click to return."
    )
