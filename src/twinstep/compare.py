"""Compare a predicted timeline with a measured one: structure first, then time, then who is to blame.

*Structure*: every rank must do the same operations, on the same bytes and groups, in every step. Where torch's wrappers
made the measured operations, their names and order are torch's own: in every step after the warm-up every rank must
communicate by the same kinds of operation, as often, as many bytes, in the same groups.

*Time*: medians over the measured steps, signed errors (predicted - measured) / measured. *Blame*: in each step the
phases of the mean rank, dispatch (`other`) included, add up to its step time; what the slowest rank takes beyond the
mean is one more term (`slowest rank`). So the differences of all terms are the difference of the step, but for medians
of sums not being sums of medians; a term's share is its part of the sum of their absolute values.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from twinstep.timeline import Timeline, interquartile_range, kind_of_group

Verdict = Literal["within", "outside"]

SLOWEST = "slowest rank"
"""The term of the step time that is not in the mean rank's phases: how much longer the slowest rank takes."""
RING = "context"
"""The kind of group in which keys and values are shifted."""
_DIFFERENCES_SHOWN = 20
_SIDES = ("predicted", "measured")


@dataclass(frozen=True, slots=True)
class Row:
    """One term, predicted and measured. Times in seconds."""

    term: str
    predicted_s: float
    """Median over the predicted steps."""
    measured_s: float
    """Median over the measured steps."""
    measured_iqr_s: float
    """Interquartile range of the measured steps."""
    measured_steps: int
    """Number of measured steps; 0 where only the prediction has the term."""

    @property
    def error(self) -> float | None:
        """Signed fraction (predicted - measured) / measured; None where nothing was measured."""
        return self.difference_s / self.measured_s if self.measured_s else None

    @property
    def difference_s(self) -> float:
        """Predicted minus measured, in seconds."""
        return self.predicted_s - self.measured_s


@dataclass(frozen=True, slots=True)
class Blame:
    """The part of the step's error that one term causes."""

    term: str
    difference_s: float
    """Predicted minus measured, in seconds."""
    share: float
    """Its absolute value as a fraction of the sum over all terms, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two timelines of one plan have in common and where they differ."""

    step: Row
    phases: tuple[Row, ...]
    collectives: tuple[Row, ...]
    ranks: tuple[Row, ...]
    blame: tuple[Blame, ...]
    """Largest share first."""
    differences: tuple[str, ...]
    """What differs in structure, in words; empty where it matches."""
    tolerance: float
    """The largest |step time error| that the plan accepts, as a fraction."""
    of_wrappers: bool = False
    """Whether torch's wrappers made the measured operations, so that kinds, counts, bytes and groups are compared."""
    core_speed: float | None = None
    """How fast the measured cores were, as a multiple of their speed at calibration; None where nobody knows."""

    @property
    def step_time_error(self) -> float:
        """Signed fraction (predicted - measured) / measured of the step time."""
        return self.step.difference_s / self.step.measured_s

    @property
    def error_at_core_speed(self) -> float | None:
        """Give the step time error if the whole step went with the cores: the predicted time over their speed."""
        if self.core_speed is None:
            return None
        return (1 + self.step_time_error) / self.core_speed - 1

    @property
    def verdict(self) -> Verdict:
        """`within` where the structure matches and the step time error is within the tolerance."""
        return "within" if not self.differences and abs(self.step_time_error) <= self.tolerance else "outside"


def compare(
    predicted: Timeline,
    measured: Timeline,
    *,
    tolerance: float,
    of_wrappers: bool = False,
    core_speed: float | None = None,
) -> Comparison:
    """Compare two timelines of the same plan; `tolerance` is a fraction, e.g. 0.1.

    With `of_wrappers` torch's wrappers made the measured operations; `core_speed` is that of the measured cores.
    """
    differences = exchange_differences if of_wrappers else structure_differences
    collectives = [({} if of_wrappers else side.collectives_by_step_s()) for side in (predicted, measured)]
    phases = _rows(predicted.phases_by_step_s(), measured.phases_by_step_s())
    return Comparison(
        step=_row("step", predicted.step_times_s(), measured.step_times_s()),
        phases=phases,
        collectives=_rows(*collectives),
        ranks=_rows(_named(predicted.ranks_by_step_s()), _named(measured.ranks_by_step_s())),
        blame=_blame((*phases, _row(SLOWEST, _beyond_mean_s(predicted), _beyond_mean_s(measured)))),
        differences=differences(predicted, measured),
        tolerance=tolerance,
        of_wrappers=of_wrappers,
        core_speed=core_speed,
    )


def structure_differences(predicted: Timeline, measured: Timeline) -> tuple[str, ...]:
    """Say in words which operations only one side has, a line an operation; at most 20 lines, then a count."""
    if predicted.lost != measured.lost:
        return (f"ranks that died: predicted {_listed(predicted.lost)}, measured {_listed(measured.lost)}",)
    expected, actual = _operations(predicted), _operations(measured)
    if predicted.lost:  # when somebody died decides how often
        expected, actual = (Counter({(key[0], key[1], 0) for key in side}) for side in (expected, actual))
    return _differences(expected, actual)


def exchange_differences(expected: Timeline, actual: Timeline, sides: Sequence[str] = _SIDES) -> tuple[str, ...]:
    """Say in words which communications only one side has, by kind, bytes and group, in the steps after the warm-up."""
    return _differences(_exchanges(expected), _exchanges(actual), sides)


def _differences(expected: _Counted, actual: _Counted, sides: Sequence[str] = _SIDES) -> tuple[str, ...]:
    """Describe what is not on both sides."""
    lines = _describe(f"only {sides[0]}", expected - actual) + _describe(f"only {sides[1]}", actual - expected)
    if len(lines) > _DIFFERENCES_SHOWN:
        lines[_DIFFERENCES_SHOWN:] = [f"and {len(lines) - _DIFFERENCES_SHOWN} more"]
    return tuple(lines)


class _Operation(NamedTuple):
    lane: str
    """Empty where lanes are not compared."""
    operation: str
    size_bytes: int
    group: str


_Counted = Counter[tuple[_Operation, int, int]]
"""Operations with rank and step."""


def _operations(timeline: Timeline) -> _Counted:
    """Count what was done: operation, rank, step; over the whole run, as in step 0, where a rank is reactive."""
    reactive = frozenset(timeline.reactive)
    return Counter(
        (_Operation(s.lane, s.operation, s.size_bytes, s.group), s.rank, 0 if s.rank in reactive else s.step)
        for s in timeline.spans
    )


def _exchanges(timeline: Timeline) -> _Counted:
    """Count the communications of each rank in each step after the warm-up.

    An operation begins with its kind: `all_reduce[bucket=0]`, `send activations[hop=0>1]`. Torch shifts keys and values
    by an all-to-all in which nobody has anything for others than the next rank: a message sent, and one received.
    """
    return Counter(
        (_Operation("", kind, s.size_bytes, s.group), s.rank, s.step)
        for s in timeline.spans
        if s.phase == "communication" and s.step >= timeline.warmup_steps
        for kind in _messages_of(re.split(r"[ \[]", s.operation)[0], kind_of_group(s.group))
    )


def _messages_of(kind: str, group: str) -> tuple[str, ...]:
    return ("send", "recv") if (kind, group) == ("all_to_all", RING) else (kind,)


def _describe(side: str, surplus: _Counted) -> list[str]:
    """Put what one side has too much of into words, an operation a line."""
    places: dict[_Operation, list[tuple[int, int]]] = defaultdict(list)
    for operation, rank, step in surplus.elements():
        places[operation].append((rank, step))
    return [
        f"{side}: {op.operation}"
        + (f" on lane {op.lane}" if op.lane else "")
        + (f", {op.size_bytes} B in group {op.group!r}" if op.group else "")
        + f": {len(at)} times, on ranks {_span(rank for rank, _ in at)}, in steps {_span(step for _, step in at)}"
        for op, at in sorted(places.items())
    ]


def _span(values: Iterable[int]) -> str:
    """Write the range that some numbers lie in.

    >>> _span([3, 1, 2]), _span([4])
    ('1 to 3', '4')
    """
    found = set(values)
    low, high = min(found), max(found)
    return f"{low} to {high}" if high > low else str(low)


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks)) or "none"


def _named(by_rank: Mapping[int, list[float]]) -> dict[str, list[float]]:
    return {f"rank {rank}": times for rank, times in by_rank.items()}


def _rows(predicted: Mapping[str, list[float]], measured: Mapping[str, list[float]]) -> tuple[Row, ...]:
    terms = list(dict.fromkeys([*predicted, *measured]))
    return tuple(_row(term, predicted.get(term, []), measured.get(term, [])) for term in terms)


def _row(term: str, predicted: list[float], measured: list[float]) -> Row:
    return Row(
        term=term,
        predicted_s=statistics.median(predicted or [0.0]),
        measured_s=statistics.median(measured or [0.0]),
        measured_iqr_s=interquartile_range(measured),
        measured_steps=len(measured),
    )


def _beyond_mean_s(timeline: Timeline) -> list[float]:
    return [max(times.values()) - timeline.mean_rank_s(times) for times in timeline.steps().values()]


def _blame(rows: tuple[Row, ...]) -> tuple[Blame, ...]:
    total_s = sum(abs(row.difference_s) for row in rows)
    shares = [Blame(row.term, row.difference_s, abs(row.difference_s) / total_s if total_s else 0.0) for row in rows]
    return tuple(sorted(shares, key=lambda blame: (-blame.share, blame.term)))
