"""Lanes of a rank, and the rows that a lane needs where its spans overlap.

A collective's span begins when the rank issues it, so on one lane the next may begin before it has ended:

    row 0   [ bucket 0      ]  [ bucket 2 ]
    row 1        [ bucket 1       ]

Both the trace, whose format forbids overlaps within a track, and the picture give such spans rows of
their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Span


def lanes_in_order(lanes: Iterable[str]) -> list[str]:
    """Sort lane names without repeats: the step, compute, then the communication lanes by name.

    >>> lanes_in_order(["data", "compute", "step", "data"])
    ['step', 'compute', 'data']
    """
    return sorted(set(lanes), key=lambda lane: (lane != STEP_LANE, lane != COMPUTE_LANE, lane))


def rows_of(spans: Iterable[Span]) -> list[tuple[int, Span]]:
    """Give each span of one lane the first row that is free when it starts, in order of start.

    Times count in whole nanoseconds; a span that starts when another ends may follow it in the same row.
    """
    ends_ns: list[int] = []
    placed = []
    for span in sorted(spans, key=lambda span: (span.start_s, span.end_s, span.operation)):
        start_ns = nanoseconds(span.start_s)
        row = next((row for row, end_ns in enumerate(ends_ns) if end_ns <= start_ns), len(ends_ns))
        ends_ns[row : row + 1] = [nanoseconds(span.end_s)]
        placed.append((row, span))
    return placed


def nanoseconds(time_s: float) -> int:
    """Round seconds to whole nanoseconds, below which times are rounding errors.

    >>> nanoseconds(0.1 + 0.2)
    300000000
    """
    return round(time_s * 1e9)
