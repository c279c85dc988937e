"""Term: one row of a table or one bar of a chart, with what is known of it from each side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twinstep.compare import Comparison, Row
from twinstep.report.contents import Contents
from twinstep.timeline import OTHER, Timeline, interquartile_range

_ORDER = (
    *("read", "load", "forward", "backward", "weight_gradients", "encode"),
    *("exposed_communication", "decode", "optimizer", "host_optimizer"),
    OTHER,
)

_IN_TURN = 1.01
"""Where the step time is so many times the largest median of a rank, ranks are slow in turn."""
MOST_ROWS = 200
"""Collectives that a page lists; the charts show fewer."""


@dataclass(frozen=True, slots=True)
class Term:
    """A phase, a collective or a rank; None is what was not run.

    Times are in seconds a step, medians over the steps.
    """

    name: str
    predicted_s: float | None = None
    measured_s: float | None = None
    measured_iqr_s: float | None = None
    measured_steps: int | None = None
    error: float | None = None
    """Signed fraction (predicted - measured) / measured."""
    share: float | None = None
    """Its part of the step's error, 0 to 1; phases of a comparison alone have one."""

    @property
    def time_s(self) -> float:
        """The measured time where there is one, else the predicted one, in seconds."""
        return self.measured_s if self.measured_s is not None else self.predicted_s or 0.0


def phase_terms(contents: Contents) -> list[Term]:
    """Give the phases of the mean rank, in the order of a step."""
    phases = _terms(contents, lambda comparison: comparison.phases, Timeline.phases_by_step_s)
    return sorted(phases, key=lambda term: (_ORDER.index(term.name) if term.name in _ORDER else -1, term.name))


def collective_terms(contents: Contents) -> list[Term]:
    """Give the collectives, each from the last rank's issue to the last end."""
    return _terms(contents, lambda comparison: comparison.collectives, Timeline.collectives_by_step_s)


def rank_terms(contents: Contents) -> list[Term]:
    """Give the step times of the ranks, by rank."""
    return _terms(contents, lambda comparison: comparison.ranks, _ranks_by_step_s)


def slowest_words(contents: Contents) -> str:
    """Say that ranks are slow in turn, so that the step time is above every rank's median; nothing where it is not."""
    sides = [side.timeline for side in (contents.prediction, contents.measurement) if side]
    in_turn = any(
        side.step_time_s() > _IN_TURN * max(map(statistics.median, side.ranks_by_step_s().values())) for side in sides
    )
    return "A step takes as long as its slowest rank, which is another one in other steps." if in_turn else ""


def rank_names(contents: Contents) -> dict[int, str]:
    """Name the ranks that have spans, as the comparison does; one that stands for others says for how many.

    >>> _rank_name(0), _rank_name(0, 128)
    ('rank 0', 'rank 0 (x 128)')
    """
    side = contents.measurement or contents.prediction
    return _names(side.timeline) if side else {}


def which_ranks(contents: Contents, shown: int) -> str:
    """Say which ranks a chart shows; nothing where it shows every one."""
    total = len(rank_names(contents))
    folded = total < contents.ranks
    sentences = []
    if shown < total:
        kind = f"representatives of the {contents.ranks} ranks" if folded else "ranks"
        sentences.append(f"{shown} of {total} {kind}: the slowest, the fastest and an even sample of the others.")
    if folded:
        sentences.append("Of ranks that live through the same times one is shown: (x 8) says that it stands for 8.")
    return " ".join(sentences)


def longest(terms: list[Term], count: int) -> list[Term]:
    """Keep the `count` terms that take longest on either side, in their own order.

    >>> [term.name for term in longest([Term("a", 1.0), Term("b", 3.0), Term("c", 2.0)], 2)]
    ['b', 'c']
    """
    by_time = sorted(terms, key=lambda term: -max(term.predicted_s or 0.0, term.measured_s or 0.0))
    kept = {term.name for term in by_time[:count]}
    return [term for term in terms if term.name in kept]


def chosen_ranks(contents: Contents, most: int) -> list[int]:
    """Choose the ranks that a chart shows: all, or the slowest, the fastest and an even sample."""
    sides = contents.measurement or contents.prediction
    times_s = sides.timeline.ranks_by_step_s() if sides else {}
    by_time = sorted(times_s, key=lambda rank: (-statistics.median(times_s[rank]), rank))
    if len(by_time) <= most:
        return sorted(by_time)
    others = sorted(by_time[1:-1])
    sample = [others[index * len(others) // (most - 2)] for index in range(most - 2)]
    return sorted([by_time[0], by_time[-1], *sample])


def _terms(
    contents: Contents,
    rows: Callable[[Comparison], tuple[Row, ...]],
    by_step: Callable[[Timeline], Mapping[str, list[float]]],
) -> list[Term]:
    if contents.comparison is not None:
        shares = {blame.term: blame.share for blame in contents.comparison.blame}
        return [_compared(row, shares.get(row.term)) for row in rows(contents.comparison)]
    if contents.prediction is not None:
        predicted = by_step(contents.prediction.timeline)
        return [Term(name, predicted_s=statistics.median(times)) for name, times in predicted.items()]
    if contents.measurement is not None:
        return [_measured(name, times) for name, times in by_step(contents.measurement.timeline).items()]
    return []


def _compared(row: Row, share: float | None) -> Term:
    return Term(row.term, row.predicted_s, row.measured_s, row.measured_iqr_s, row.measured_steps, row.error, share)


def _measured(name: str, times: list[float]) -> Term:
    return Term(
        name,
        measured_s=statistics.median(times),
        measured_iqr_s=interquartile_range(times),
        measured_steps=len(times),
    )


def _ranks_by_step_s(timeline: Timeline) -> dict[str, list[float]]:
    names = _names(timeline)
    return {names[rank]: times for rank, times in timeline.ranks_by_step_s().items()}


def _names(timeline: Timeline) -> dict[int, str]:
    return {twins.representative: _rank_name(twins.representative, len(twins.ranks)) for twins in timeline.twins}


def _rank_name(rank: int, alike: int = 1) -> str:
    return f"rank {rank} (x {alike})" if alike > 1 else f"rank {rank}"
