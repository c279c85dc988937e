"""The chart of memory: what the fullest rank holds over a step, by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from twinstep.report.chart import Chart, style
from twinstep.report.contents import Contents, MemoryCourse, Prediction
from twinstep.units import format_size

_HEIGHT_PX = 320
_MOST_POINTS = 1200
_FAR_ABOVE = 3
"""Times the peak beyond which a device's memory has no line: it would press the areas flat."""
_COLOURS = {
    "parameters": "#5d7ea3",
    "optimizer_state": "#8d78b8",
    "gradients": "#4f9d86",
    "gathered_parameters": "#9dbbd8",
    "activations": "#c2a13f",
    "communication": "#d9683c",
    "temporaries": "#a3a9b2",
}
_OTHER_COLOUR = "#7a6a2f"
_LIMIT_COLOUR = "#c0354b"

_Moments = Sequence[tuple[float, Mapping[str, int]]]


def memory_charts(contents: Contents) -> list[Chart]:
    """Stack the bytes of the fullest rank over its representative step; nothing where they are not known."""
    prediction = contents.prediction
    if prediction is None or prediction.memory is None or not prediction.memory.moments:
        return []
    course = prediction.memory
    peak_bytes = max(parts["total"] for _, parts in course.moments)
    unit_bytes, unit = next((size, name) for size, name in _UNITS if peak_bytes >= size or size == 1)
    begin_s, end_s = _bounds_s(prediction, course)
    moments = _thinned(course.moments)
    parts = [part for part in _parts(course.moments) if any(held.get(part, 0) for _, held in moments)]
    figure = go.Figure()
    for part in parts:
        figure.add_trace(_area(part, moments, (begin_s, end_s), unit_bytes, unit))
    device_bytes = course.device_bytes
    has_line = device_bytes is not None and device_bytes <= _FAR_ABOVE * peak_bytes
    highest = peak_bytes
    if device_bytes is not None and has_line:
        figure.add_hline(y=device_bytes / unit_bytes, line={"color": _LIMIT_COLOUR, "width": 1.5, "dash": "dash"})
        highest = max(peak_bytes, device_bytes)
    figure.update_xaxes(
        title={"text": "ms from the start of the step", "standoff": 8}, range=[0, 1e3 * (end_s - begin_s)]
    )
    figure.update_yaxes(title_text=unit, range=[0, 1.08 * highest / unit_bytes], automargin=True, fixedrange=True)
    style(figure, _HEIGHT_PX).update_layout(hovermode="closest", margin={"l": 8, "r": 12, "t": 30, "b": 48})
    legend = [(part.replace("_", " "), _COLOURS.get(part, _OTHER_COLOUR)) for part in parts]
    legend += [("the device's memory", _LIMIT_COLOUR)] if has_line else []
    return [Chart("memory", "Memory", figure, _caption(course, peak_bytes), tuple(legend))]


_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def _area(part: str, moments: _Moments, bounds_s: tuple[float, float], unit_bytes: int, unit: str) -> go.Scatter:
    begin_s, end_s = bounds_s
    held = [parts.get(part, 0) for _, parts in moments]
    name = part.replace("_", " ")
    return go.Scatter(
        name=name,
        mode="lines",
        stackgroup="held",
        x=[*(round(1e3 * (time_s - begin_s), 6) for time_s, _ in moments), round(1e3 * (end_s - begin_s), 6)],
        y=[round(size / unit_bytes, 4) for size in [*held, held[-1]]],
        line={"shape": "hv", "width": 0, "color": _COLOURS.get(part, _OTHER_COLOUR)},
        fillcolor=_COLOURS.get(part, _OTHER_COLOUR),
        hovertemplate=f"<b>{name}</b><br>%{{y:.4g}} {unit} at %{{x:.4g}} ms<extra></extra>",
    )


def _parts(moments: _Moments) -> list[str]:
    """List the parts from those that stay to those that come and go."""
    found = dict.fromkeys(part for _, parts in moments for part in parts if part != "total")
    order = [*_COLOURS]
    return sorted(found, key=lambda part: order.index(part) if part in order else len(order))


def _bounds_s(prediction: Prediction, course: MemoryCourse) -> tuple[float, float]:
    """Give the begin and the end of the rank's step."""
    timeline = prediction.timeline
    owner = next(twins.representative for twins in timeline.twins if course.rank in twins.ranks)
    step = timeline.representative_step()
    return next(
        (span.start_s, span.end_s)
        for span in timeline.spans
        if (span.rank, span.step, span.phase) == (owner, step, "step")
    )


def _thinned(moments: _Moments) -> _Moments:
    """Keep of each of many equal runs of moments the one at which most is held."""
    if len(moments) <= _MOST_POINTS:
        return moments
    size = -(-len(moments) // _MOST_POINTS)
    runs = (moments[first : first + size] for first in range(0, len(moments), size))
    return [max(run, key=lambda moment: moment[1]["total"]) for run in runs]


def _caption(course: MemoryCourse, peak_bytes: int) -> str:
    thinned = " Of neighbouring moments the fullest is drawn." if len(course.moments) > _MOST_POINTS else ""
    device = ""
    if course.device_bytes is not None:
        device = f" of the {format_size(course.device_bytes)} that its device has"
    allowed = ""
    if course.allowance_bytes:
        allowed = (
            f" Beside it, {format_size(course.allowance_bytes)} are allowed for fragmentation, which are not drawn."
        )
    return (
        f"Predicted: what rank {course.rank}, the fullest, holds in the step nearest to the median. At its peak it "
        f"holds {format_size(peak_bytes)}{device}.{allowed}{thinned}"
    )
