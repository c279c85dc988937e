"""Crossovers: where one line of a sweep overtakes another, by step times.

Between two neighbouring points that two lines pass in different orders lies a crossover. On an axis of whole numbers it
is sought by halving, so that it is known from which number on the other line is faster. Elsewhere it is interpolated:
the logarithm of the ratio of the two times is taken to be linear, in the logarithm of the axis where that is positive,
which is exact where both times are powers of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

from twinstep.sweep.axes import Axis
from twinstep.sweep.points import Crossover, Line, Point, chart_axis, value_words

Seek = Callable[[Line, int], float | None]
"""Gives the step time of a line at a whole number in seconds; None where there is no valid plan."""
_EQUAL = 1e-9
"""Relative difference below which neither of two times is shorter."""
_MOST_TRIES = 8
"""How many numbers on either side of the middle are tried where plans are invalid."""


class _Meeting(NamedTuple):
    """Two lines at a value that both have."""

    x: float
    label: str
    times_s: tuple[float, float]

    @property
    def order(self) -> int:
        """Give -1 where the first line is faster, 1 where the second is, 0 where they are equal."""
        return _order(*self.times_s)


def crossovers(
    axes: Sequence[Axis], lines: Sequence[Line], time_s: Callable[[Point], float | None], seek: Seek | None = None
) -> tuple[Crossover, ...]:
    """Find the crossovers of all pairs of lines, in the order of the axis; `seek` predicts whole numbers between.

    `time_s` gives the step time of a point; None where it has none.
    """
    axis = axes[chart_axis(axes)]
    if not axis.numbers:
        return ()
    found = []
    for pair in combinations(lines, 2):
        for low, high in _changes(_meetings(axis, chart_axis(axes), pair, time_s)):
            found.append((low.x, _crossover(pair, low, high, seek if axis.is_whole else None)))
    return tuple(crossover for _, crossover in sorted(found, key=lambda each: each[0]))


def _meetings(
    axis: Axis, along: int, pair: Sequence[Line], time_s: Callable[[Point], float | None]
) -> Iterator[_Meeting]:
    one, other = ({point.position[along]: time_s(point) for point in line.points} for line in pair)
    for index in one:
        times = one[index], other.get(index)
        if times[0] is not None and times[1] is not None:
            yield _Meeting(axis.numbers[index], value_words(axis.values[index][0]), (times[0], times[1]))


def _changes(meetings: Iterator[_Meeting]) -> Iterator[tuple[_Meeting, _Meeting]]:
    """Give neighbours of different order; where the lines are equal they have none."""
    for low, high in pairwise(each for each in meetings if each.order):
        if low.order != high.order:
            yield low, high


def _crossover(pair: Sequence[Line], low: _Meeting, high: _Meeting, seek: Seek | None) -> Crossover:
    before, after = (pair[0], pair[1]) if low.order < 0 else (pair[1], pair[0])
    if seek is None:
        return Crossover(before.name, after.name, low.label, high.label, _interpolated(low, high))
    last, first = _halved(round(low.x), round(high.x), before, after, seek)
    return Crossover(before.name, after.name, str(last), str(first), None)


def _halved(last: int, first: int, before: Line, after: Line, seek: Seek) -> tuple[int, int]:
    """Give the last number at which the one line is faster, or as fast, and the first at which the other is.

    Numbers without a valid plan are passed over.
    """
    while first - last > 1:
        middle = (last + first) // 2
        around = range(max(last + 1, middle - _MOST_TRIES), min(first, middle + _MOST_TRIES + 1))
        tried = sorted(around, key=lambda value: abs(value - middle))
        known = next(((value, times) for value in tried if (times := _times_s(value, before, after, seek))), None)
        if known is None:
            break
        value, times_s = known
        last, first = (last, value) if _order(*times_s) > 0 else (value, first)
    return last, first


def _times_s(value: int, before: Line, after: Line, seek: Seek) -> tuple[float, float] | None:
    one = seek(before, value)
    other = seek(after, value) if one is not None else None
    return (one, other) if one is not None and other is not None else None


def _order(one_s: float, other_s: float) -> int:
    if math.isclose(one_s, other_s, rel_tol=_EQUAL):
        return 0
    return -1 if one_s < other_s else 1


def _interpolated(low: _Meeting, high: _Meeting) -> float:
    """Give where the lines meet between two values."""
    below, above = (math.log(each.times_s[0] / each.times_s[1]) for each in (low, high))
    share = below / (below - above)
    if low.x > 0:
        return float(low.x * (high.x / low.x) ** share)
    return low.x + share * (high.x - low.x)
