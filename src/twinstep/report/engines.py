"""Engines: what was predicted, what the rank programs took, and what torch's own wrappers took, side by side.

Predicted against program is an error of the cost model; program against native, of what the programs describe.
"""

from __future__ import annotations

from typing import NamedTuple

from twinstep.compare import exchange_differences
from twinstep.report.contents import Contents

SIDES = ("predicted", "program", "native")


class EngineRow(NamedTuple):
    """A step or one of its phases: seconds a step, by side; None where a side does not have it."""

    term: str
    times_s: tuple[float | None, ...]


def engine_rows(contents: Contents) -> list[EngineRow]:
    """Give the step and its phases on all three sides; nothing where the rank programs were not run beside torch's."""
    sides = (contents.prediction, contents.by_programs, contents.measurement)
    timelines = [side.timeline for side in sides if side]
    if len(timelines) < len(sides):
        return []
    phases = [timeline.phases_s() for timeline in timelines]
    names = dict.fromkeys(name for by_name in phases for name in by_name)
    step = EngineRow("step", tuple(timeline.step_time_s() for timeline in timelines))
    return [step, *(EngineRow(name, tuple(by_name.get(name) for by_name in phases)) for name in names)]


def engine_differences(contents: Contents) -> tuple[str, ...]:
    """Say what only the rank programs or only torch's wrappers have communicated."""
    if contents.by_programs is None or contents.measurement is None:
        return ()
    return exchange_differences(contents.by_programs.timeline, contents.measurement.timeline, SIDES[1:])


def engines_words(contents: Contents) -> str:
    """Say whether both engines have communicated the same."""
    if engine_differences(contents):
        return "Rank programs and torch's wrappers did not communicate the same:"
    return "Rank programs and torch's wrappers communicated the same kinds, counts, bytes and groups in every step."
