"""The picture of a pipeline: the passes of one step, a row a rank, predicted above measured on one time axis."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from twinstep.bubbles import PASSES, Gap, Pass, Pipeline, RankStep, gaps_by_step, passes, rank_steps
from twinstep.report.chart import (
    BUBBLE_COLOUR,
    MOST_RANKS,
    PASS_SHADES,
    PHASE_COLOURS,
    Chart,
    label,
    style,
    style_names,
)
from twinstep.report.contents import Contents
from twinstep.report.words import duration_words, percent_words, term_words
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Span, Timeline

_MOST_BARS = 12_000
_FEWEST_RANKS = 4
_TITLE_PX = 34
_AXIS_PX = 48
_MOST_OUTLINED = 40
"""Passes of a rank up to which each has an outline; more are so narrow that they would be all outline."""
_FILLED = 0.86
_STRIP = 0.16
_SMALLEST = 1 / 3000
"""Part of the axis below which a bubble or a wait cannot be seen."""
_BUBBLE, _WAIT, _WITHIN = "bubble", "exposed_communication", "waits within passes"
_ORDER = (*PHASE_COLOURS, _WITHIN, _BUBBLE)


@dataclass(frozen=True, slots=True)
class _Bar:
    """A part of a row."""

    rank: int
    kind: str
    """A phase, `bubble`, or `waits within passes`: a strip below a pass, as long as these waits are together."""
    start_s: float
    end_s: float
    hover: str
    text: str = ""
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class _Side:
    """One step of one timeline."""

    title: str
    bars: list[_Bar]
    begin_s: float
    end_s: float
    shares: dict[int, float]
    """Each rank's bubble in this step, as a fraction of it."""


def staircase_chart(contents: Contents) -> Chart | None:
    """Draw the representative step of the representative pipeline of each side; None where nothing is pipelined."""
    pipeline = contents.pipeline
    sides = [
        (name, part.timeline)
        for name, part in (("predicted", contents.prediction), ("measured", contents.measurement))
        if part is not None and part.bubbles is not None
    ]
    if pipeline is None or not sides:
        return None
    drawn = [_side(name, timeline, pipeline) for name, timeline in sides]
    drawn = [side for side in drawn if any(bar.text for bar in side.bars)]
    if not drawn:
        return None
    ranks = _chosen(pipeline.ranks, max(len(side.bars) for side in drawn))
    kinds = {_WAIT if bar.kind == _WITHIN else bar.kind for side in drawn for bar in side.bars}
    chunks = len(pipeline.first_layers[0])
    return Chart(
        key="pipeline",
        title="Pipeline",
        figure=_figure(drawn, ranks, chunks),
        caption=_caption(pipeline, ranks, chunks),
        legend=tuple((_words(kind), _shade(kind, chunks // 2, chunks)) for kind in _ORDER if kind in kinds),
    )


def _chosen(ranks: Sequence[int], bars: int) -> list[int]:
    """Keep as many ranks as can be drawn, evenly, from the first to the last."""
    most = max(_FEWEST_RANKS, min(MOST_RANKS, _MOST_BARS * len(ranks) // max(1, bars)))
    if len(ranks) <= most:
        return list(ranks)
    return [ranks[round(index * (len(ranks) - 1) / (most - 1))] for index in range(most)]


def _side(name: str, timeline: Timeline, pipeline: Pipeline) -> _Side:
    step = timeline.representative_step()
    lived = [each for each in rank_steps(timeline, pipeline) if each.step == step]
    whole = {each.rank: span for each in lived for span in each.spans if span.lane == STEP_LANE}
    begin_s, end_s = min(span.start_s for span in whole.values()), max(span.end_s for span in whole.values())
    gaps = gaps_by_step(timeline, pipeline).get(step, [])
    smallest_s = (end_s - begin_s) * _SMALLEST
    bars = [bar for each in lived for bar in _bars(each, pipeline, gaps)]
    idle_s: dict[int, float] = defaultdict(float)
    for gap in gaps:
        idle_s[gap.rank] += gap.end_s - gap.start_s
    return _Side(
        title=f"{name}: step {step}, {duration_words(max(span.duration_s for span in whole.values()))}",
        bars=[bar for bar in bars if bar.text or bar.end_s - bar.start_s >= smallest_s],
        begin_s=begin_s,
        end_s=end_s,
        shares={rank: idle_s[rank] / span.duration_s for rank, span in whole.items()},
    )


def _bars(lived: RankStep, pipeline: Pipeline, gaps: Sequence[Gap]) -> Iterator[_Bar]:
    """Give passes, bubbles, and what is between them: other computations, and waits for ranks of other groups."""
    found, own = passes(lived, pipeline), [gap for gap in gaps if gap.rank == lived.rank]
    chunks = len(pipeline.first_layers[0])
    for each in found:
        hover = _pass_hover(each, chunks)
        yield _Bar(*_place(each, each.phase), hover, str(each.microbatch), each.chunk)
        yield _Bar(lived.rank, _WITHIN, each.start_s, each.end_s - each.computed_s, hover)
    for gap in own:
        hover = f"<b>bubble</b>, {duration_words(gap.end_s - gap.start_s)}<br>{label(gap.operation)}"
        yield _Bar(*_place(gap, _BUBBLE), f"{hover}<br>rank {gap.rank}")
    idle_until_s = {gap.start_s: gap.end_s for gap in own}
    for span in _between(lived.spans, found):
        start_s = idle_until_s.get(span.start_s, span.start_s) if span.phase == _WAIT else span.start_s
        if span.end_s > start_s:
            hover = f"<b>{label(span.operation)}</b><br>{duration_words(span.end_s - start_s)}, rank {lived.rank}"
            yield _Bar(lived.rank, span.phase, start_s, span.end_s, hover)


def _place(part: Gap | Pass, kind: str) -> tuple[int, str, float, float]:
    return part.rank, kind, part.start_s, part.end_s


def _between(spans: Sequence[Span], found: Sequence[Pass]) -> Iterator[Span]:
    """Give what the compute lane holds outside of passes."""
    starts_s = [each.start_s for each in found]
    for span in spans:
        before = bisect_right(starts_s, span.start_s) - 1
        if span.lane == COMPUTE_LANE and (before < 0 or found[before].end_s <= span.start_s):
            yield span


def _pass_hover(each: Pass, chunks: int) -> str:
    chunk = f", chunk {each.chunk}" if chunks > 1 else ""
    waited_s = each.duration_s - each.computed_s
    waits = f", {duration_words(waited_s)} of them waits" if waited_s > each.duration_s / 1000 else ""
    return (
        f"<b>{term_words(each.phase)}, microbatch {each.microbatch}{chunk}</b><br>"
        f"{duration_words(each.duration_s)}{waits}<br>rank {each.rank}"
    )


def _figure(sides: list[_Side], ranks: list[int], chunks: int) -> go.Figure:
    row_px = 30 if len(ranks) <= 8 else 22
    plot_px = len(ranks) * row_px
    inner_px = len(sides) * (plot_px + _TITLE_PX) - _TITLE_PX
    spacing = _TITLE_PX / inner_px if len(sides) > 1 else 0
    figure = make_subplots(rows=len(sides), cols=1, shared_xaxes=True, vertical_spacing=spacing)
    rows = {rank: y for y, rank in enumerate(ranks)}
    for index, side in enumerate(sides, start=1):
        for trace in _traces(side, rows, chunks):
            figure.add_trace(trace, row=index, col=1)
        _write_beside(figure, side, rows, index)
    style_names(figure, {y: f"rank {rank}" for rank, y in rows.items()}, len(ranks))
    style(figure, inner_px + _TITLE_PX + _AXIS_PX)
    end_ms = max(1e3 * (side.end_s - side.begin_s) for side in sides)
    figure.update_xaxes(range=[0, end_ms], zeroline=False, showgrid=False)
    figure.update_xaxes(title={"text": "ms from the start of the step", "standoff": 8}, row=len(sides), col=1)
    figure.update_layout(
        barmode="overlay",
        dragmode="zoom",
        margin={"l": 8, "r": 64, "t": _TITLE_PX, "b": _AXIS_PX},
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    return figure


def _traces(side: _Side, rows: dict[int, int], chunks: int) -> Iterator[go.Bar]:
    """Draw one trace a kind."""
    by_kind: dict[str, list[_Bar]] = defaultdict(list)
    for bar in side.bars:
        if bar.rank in rows:
            by_kind[bar.kind].append(bar)
    outline_px = 0.5 if max(map(len, by_kind.values())) <= _MOST_OUTLINED * len(rows) else 0
    for kind in (each for each in _ORDER if each in by_kind):
        bars = by_kind[kind]
        shades = [_narrowable(_shade(kind, bar.chunk, chunks)) for bar in bars]
        yield go.Bar(
            orientation="h",
            name=term_words(kind),
            base=[round(1e3 * (bar.start_s - side.begin_s), 6) for bar in bars],
            x=[round(1e3 * (bar.end_s - bar.start_s), 6) for bar in bars],
            y=[rows[bar.rank] + ((_FILLED - _STRIP) / 2 if kind == _WITHIN else 0) for bar in bars],
            width=_STRIP if kind == _WITHIN else _FILLED,
            marker={
                "color": shades if chunks > 1 else shades[0],
                "line": {"width": outline_px if kind in PASSES else 0, "color": "rgba(255,255,255,0.6)"},
            },
            text=[bar.text for bar in bars] if kind in PASSES else None,
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="inside",
            insidetextfont={"size": 11, "color": "#ffffff" if kind == "backward" else "#1d2126"},
            hoverinfo="text",
            hovertext=[bar.hover for bar in bars],
        )


def _narrowable(colour: str) -> str:
    """Let bars become narrower than a pixel: plotly widens opaque ones to one."""
    return f"rgba{(*bytes.fromhex(colour[1:]), 0.999)}" if colour.startswith("#") else colour


def _shade(kind: str, chunk: int, chunks: int) -> str:
    """Give the colour of a bar: passes are darker, the later their chunk is."""
    if kind == _BUBBLE:
        return BUBBLE_COLOUR
    if kind not in PASSES or chunks == 1:
        return PHASE_COLOURS[_WAIT if kind == _WITHIN else kind]
    light, dark = (bytes.fromhex(colour[1:]) for colour in PASS_SHADES[kind])
    part = chunk / (chunks - 1)
    mixed = bytes(round(a + (b - a) * part) for a, b in zip(light, dark, strict=True))
    return f"#{mixed.hex()}"


def _words(kind: str) -> str:
    """Give the words of the legend."""
    known = {_BUBBLE: "bubble (waits for another stage)", _WAIT: "other waits for communication"}
    return known.get(kind, term_words(kind))


def _write_beside(figure: go.Figure, side: _Side, rows: dict[int, int], index: int) -> None:
    """Write the side's title above, and each rank's bubble at the end of its row."""
    number = "" if index == 1 else str(index)
    above = {"yref": f"y{number} domain", "y": 1, "yanchor": "bottom", "yshift": 4, "showarrow": False}
    figure.add_annotation(text=f"<b>{side.title}</b>", xref="paper", x=0, font_size=12, **above)
    beside = {"xref": "paper", "x": 1, "xanchor": "left", "xshift": 8, "showarrow": False}
    for rank, share in side.shares.items():
        if rank in rows:
            figure.add_annotation(text=percent_words(share), yref=f"y{number}", y=rows[rank], font_size=12, **beside)


def _caption(pipeline: Pipeline, ranks: list[int], chunks: int) -> str:
    total = len(pipeline.ranks)
    which = f"{len(ranks)} of its {total} ranks, evenly chosen. " if len(ranks) < total else ""
    shades = " The darker the colour, the later the chunk of the model." if chunks > 1 else ""
    return (
        "One step of one pipeline, that of the first ranks of every other dimension, the step nearest to the median. "
        f"{which}Numbers are microbatches; zoom in to see those that do not fit.{shades} A bubble is the time in which "
        "a rank waits for another stage; at the end of a row, its share of the rank's step. The length of "
        "a strip below a pass is how long it waits for other communication, in all."
    )
