"""Torch's own wrappers with real compute on this machine's cores, in rounds.

Others on the same hardware change the speed of a virtual machine's cores by the minute. So each round begins with a
calibration of its own, with which all plans are predicted, and executes each of them once; a case's error is the median
over the rounds. The bound is that of the errors at the cores' measured speed, which depend less on the minute; the
plain ones stand beside them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from native_plans import native_plans

from twinstep import workflow
from twinstep.compare import Comparison
from twinstep.report.words import error_words
from twinstep.scenario import Scenario, load_scenario
from twinstep.units import format_duration

_LARGEST = 0.15
"""The bound of each case's |error| at the cores' speed."""


def show_native(rounds: int) -> tuple[str, bool]:
    """Run all plans; give the table, and whether the bound is kept."""
    with tempfile.TemporaryDirectory() as folder:
        scenarios = _scenarios(Path(folder))
        found = [_round(scenarios, Path(folder)) for _ in range(rounds)]
    lines = [
        "## Torch's wrappers, real compute",
        "",
        "| case | predicted, rounds | measured | cores' speed | error | at that speed |",
        "|---|---|---|---|---|---|",
        *(_row(name, [each[name] for each in found]) for name in scenarios),
    ]
    plain = [_error([each[name] for each in found]) for name in scenarios]
    at_speed = [_error_at_speed([each[name] for each in found]) for name in scenarios]
    kept = max(map(abs, at_speed)) <= _LARGEST
    lines += [
        "",
        f"{len(plain)} cases in {rounds} rounds. {_summary('Plain errors', plain)}. "
        f"{_summary('At the measured speed', at_speed)}: {'kept' if kept else 'NOT KEPT'}.",
        "",
    ]
    return "\n".join(lines), kept


def _summary(name: str, errors: Sequence[float]) -> str:
    mean, largest = statistics.fmean(map(abs, errors)), max(map(abs, errors))
    within = sum(abs(error) <= _LARGEST for error in errors)
    bias = statistics.fmean(errors)
    return (
        f"{name}: mean of absolute values {100 * mean:.1f} %, largest {100 * largest:.1f} %, bias {100 * bias:+.1f} %, "
        f"{within} within {100 * _LARGEST:g} %"
    )


def _scenarios(folder: Path) -> dict[str, Scenario]:
    found = {}
    for name, text in native_plans():
        path = folder / "case.yaml"
        path.write_text(text)
        found[name] = load_scenario(str(path))
    return found


def _round(scenarios: Mapping[str, Scenario], folder: Path) -> dict[str, Comparison]:
    """Calibrate, then predict and execute every plan once."""
    profile = workflow.calibrate(folder / "profile.json", lambda share: None)
    found = {}
    for name, scenario in scenarios.items():
        prediction = workflow.predict(scenario, profile, every_rank=True)
        measurement = workflow.measure(scenario, profile, lambda share: None)
        comparison = workflow.contents(scenario, profile, prediction, measurement).comparison
        if comparison is None:
            raise TypeError("a prediction and a measurement were not compared")
        found[name] = comparison
        print(f"{name}: {error_words(comparison.step_time_error)}", file=sys.stderr, flush=True)
    return found


def _error(rounds: Sequence[Comparison]) -> float:
    return statistics.median(each.step_time_error for each in rounds)


def _error_at_speed(rounds: Sequence[Comparison]) -> float:
    known = [error for each in rounds if (error := each.error_at_core_speed) is not None]
    return statistics.median(known)


def _row(name: str, rounds: Sequence[Comparison]) -> str:
    predicted = ", ".join(format_duration(each.step.predicted_s) for each in rounds)
    measured = ", ".join(format_duration(each.step.measured_s) for each in rounds)
    speeds = ", ".join(f"{each.core_speed:.2f}" for each in rounds if each.core_speed)
    errors = error_words(_error(rounds)), error_words(_error_at_speed(rounds))
    return f"| {' | '.join((name, predicted, measured, speeds, *errors))} |"
