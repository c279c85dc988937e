"""trace.json: both timelines on one time axis, for Perfetto (ui.perfetto.dev) and chrome://tracing.

The format is the JSON object form of Chrome's trace events, with Kineto's categories: a process for each side
of each rank, a thread for each lane, one complete event (`"ph": "X"`) a span, times in microseconds. Both
sides are shifted so that the first step after the warm-up begins at the same time on each.

Events of one thread must not overlap, or Perfetto drops them; some versions cut times to whole nanoseconds.
So a lane has as many threads as its spans overlap, and times are whole nanoseconds that survive the cut.

Viewers hold a whole trace in a browser's memory, so of a long run it shows the first steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from twinstep.report.contents import Contents
from twinstep.report.lanes import lanes_in_order, nanoseconds, rows_of
from twinstep.timeline import Span, Timeline

MOST_SPANS = 200_000
"""Spans of a side up to which a trace shows the whole run."""
_THREADS_OF_A_PROCESS = 1000
_ANNOTATIONS = ("step", "exposed_communication")

Event = dict[str, Any]


def chrome_trace(contents: Contents) -> dict[str, Any]:
    """Give the trace as plain JSON values; `ts` and `dur` are in microseconds and never negative.

    Where steps at the end are left out, `otherData` says how many are there.
    """
    sides = {
        side: part.timeline
        for side, part in (("predicted", contents.prediction), ("measured", contents.measurement))
        if part is not None
    }
    steps = 1 + max(max(timeline.steps()) for timeline in sides.values())
    shown = min(_steps_shown(timeline, steps) for timeline in sides.values())
    sides = {side: _first_steps(timeline, shown) for side, timeline in sides.items()}
    first_ns = max(_first_measured_ns(timeline) - _begin_ns(timeline) for timeline in sides.values())
    events: list[Event] = []
    for index, (side, timeline) in enumerate(sides.items()):
        shift_ns = first_ns - _first_measured_ns(timeline)
        for rank, spans in _by_rank(timeline).items():
            pid = 1 + rank * len(sides) + index
            events += _process(pid, rank, side)
            events += _threads(pid, spans, shift_ns)
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "distributedInfo": {"world_size": contents.ranks},
        **({"otherData": {"steps": f"the first {shown} of {steps}"}} if shown < steps else {}),
        "traceEvents": events,
    }


def _steps_shown(timeline: Timeline, steps: int) -> int:
    """Give how many of the steps have no more spans than a trace may hold: at least one after the warm-up."""
    return min(steps, max(timeline.warmup_steps + 1, MOST_SPANS * steps // len(timeline.spans)))


def _first_steps(timeline: Timeline, steps: int) -> Timeline:
    return replace(timeline, spans=timeline.table.chosen(timeline.table.step < steps))


def _first_measured_ns(timeline: Timeline) -> int:
    first = min(timeline.steps())
    spans = timeline.table
    whole = spans.has(lambda kind: kind.phase == "step") & (spans.step == first)
    return nanoseconds(float(spans.start_s[whole].min()))


def _begin_ns(timeline: Timeline) -> int:
    return nanoseconds(float(timeline.table.start_s.min()))


def _by_rank(timeline: Timeline) -> dict[int, list[Span]]:
    by_rank: dict[int, list[Span]] = defaultdict(list)
    for span in timeline.spans:
        by_rank[span.rank].append(span)
    return dict(sorted(by_rank.items()))


def _process(pid: int, rank: int, side: str) -> Iterator[Event]:
    """Name a process; predicted and measured of one rank stand together."""
    for name, args in (
        ("process_name", {"name": f"rank {rank} {side}"}),
        ("process_labels", {"labels": side}),
        ("process_sort_index", {"sort_index": pid}),
    ):
        yield {"ph": "M", "pid": pid, "tid": 0, "name": name, "args": args}


def _threads(pid: int, spans: list[Span], shift_ns: int) -> Iterator[Event]:
    """Write the lanes of one rank. Thread numbers are unique in the trace."""
    by_lane: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_lane[span.lane].append(span)
    tid = pid * _THREADS_OF_A_PROCESS
    for lane in lanes_in_order(by_lane):
        placed = rows_of(by_lane[lane])
        for row in range(1 + max(row for row, _ in placed)):
            tid += 1
            name = f"{lane} ({row + 1})" if row else lane
            yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
            yield {
                "ph": "M",
                "pid": pid,
                "tid": tid,
                "name": "thread_sort_index",
                "args": {"sort_index": tid},
            }
            for span in (span for in_row, span in placed if in_row == row):
                yield _complete(span, pid, tid, shift_ns)


def _complete(span: Span, pid: int, tid: int, shift_ns: int) -> Event:
    start_ns, end_ns = nanoseconds(span.start_s), nanoseconds(span.end_s)
    args: dict[str, Any] = {"step": span.step, "phase": span.phase, "stream": span.lane}
    if span.group:
        args |= {"bytes": span.size_bytes, "group": span.group}
    return {
        "ph": "X",
        "cat": "user_annotation" if span.phase in _ANNOTATIONS else "kernel",
        "name": span.operation,
        "pid": pid,
        "tid": tid,
        "ts": _microseconds(start_ns + shift_ns),
        "dur": _microseconds(end_ns - start_ns),
        "args": args,
    }


def _microseconds(time_ns: int) -> float:
    """Give the microseconds from which a reader that computes int(1000 * ts) finds the nanoseconds again."""
    value_us = time_ns / 1000
    return value_us if int(value_us * 1000.0) == time_ns else math.nextafter(value_us, math.inf)
