"""How ranks agree: how fast workers go on, how old their gradients are, and how soon a loss is reached.

A plan in which whoever comes first goes on first is one of many courses of events, simulated and executed; so it is the
median execution that counts, and the staleness of all executions together.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from typing import NamedTuple

from mode_plans import mode_plans

from twinstep import workflow
from twinstep.profile import Profile
from twinstep.progress import Progress, pooled_staleness, staleness_distance, time_to_loss_error
from twinstep.report.words import error_words
from twinstep.scenario import load_scenario

_MEAN_RATE, _DISTANCE, _MEAN_TIME = 0.05, 0.1, 0.1
"""Bounds: of the mean |error| of the rates, of each distance, of the mean |error| of the time to a loss."""


class Case(NamedTuple):
    """One plan, predicted and executed."""

    name: str
    predicted: Progress
    runs: tuple[Progress, ...]
    busy_share: float

    @property
    def rate_error(self) -> float:
        """Signed fraction, against the median run."""
        return self.predicted.worker_steps_per_s / statistics.median(r.worker_steps_per_s for r in self.runs) - 1

    @property
    def distance(self) -> float | None:
        """Of the predicted distribution of staleness and that of all runs; None where none counts."""
        if len(self.predicted.staleness) < 2:
            return None
        together = replace(self.runs[0], staleness=pooled_staleness(self.runs))
        return staleness_distance(self.predicted, together)

    @property
    def largest_distance(self) -> float:
        """Of the predicted distribution and that of a single run."""
        return max(staleness_distance(self.predicted, run) for run in self.runs)

    @property
    def time_error(self) -> float | None:
        """Of the time to the least loss that both reach, the median over the runs; None where nothing is learnt."""
        errors = [error for run in self.runs if (error := time_to_loss_error(self.predicted, run)) is not None]
        return statistics.median(errors) if errors else None


def show_modes(profile: Profile, runs: int) -> tuple[str, bool]:
    """Run all plans; give the table, and whether the bounds are kept."""
    cases = [_case(name, scenario, overrides, profile, runs) for name, scenario, overrides in mode_plans()]
    lines = [
        "## How ranks agree",
        "",
        "| case | worker steps/s, predicted | measured, runs | error | distance | of a run | time to a loss | cores |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, cases),
    ]
    rates = [abs(case.rate_error) for case in cases]
    distances = [case.distance for case in cases if case.distance is not None]
    times = [abs(case.time_error) for case in cases if case.time_error is not None]
    mean_rate, mean_time, distance = statistics.fmean(rates), statistics.fmean(times), max(distances)
    kept = mean_rate <= _MEAN_RATE and distance <= _DISTANCE and mean_time <= _MEAN_TIME
    lines += [
        "",
        f"{len(cases)} cases. Worker steps a second: mean absolute error {100 * mean_rate:.1f} % (bound "
        f"{100 * _MEAN_RATE:g} %), largest {100 * max(rates):.1f} %. Distance of staleness at most {distance:.2f} "
        f"(bound {_DISTANCE:g}). Time to a loss: mean {100 * mean_time:.1f} % (bound {100 * _MEAN_TIME:g} %), largest "
        f"{100 * max(times):.1f} %. {'Kept.' if kept else 'NOT KEPT.'}",
        "",
    ]
    return "\n".join(lines), kept


def _case(name: str, scenario: str, overrides: tuple[str, ...], profile: Profile, runs: int) -> Case:
    loaded = load_scenario(scenario, overrides)
    predicted = workflow.predict(loaded, profile, whole=True).progress()
    measured = [workflow.measure(loaded, profile, lambda share: None) for _ in range(runs)]
    busy = statistics.median(run.counts.cores_busy_share if run.counts else 0.0 for run in measured)
    case = Case(name, predicted, tuple(run.progress() for run in measured), busy)
    print(f"{name}: {error_words(case.rate_error)}", file=sys.stderr, flush=True)
    return case


def _row(case: Case) -> str:
    rates = case.predicted.rates_by_chance
    spread = f" ({rates[0]:.4g} to {rates[-1]:.4g})" if rates else ""
    measured = ", ".join(f"{run.worker_steps_per_s:.4g}" for run in case.runs)
    counted = case.distance is not None
    distances = (f"{case.distance:.2f}", f"{case.largest_distance:.2f}") if counted else ("-", "-")
    cells = (
        case.name,
        f"{case.predicted.worker_steps_per_s:.4g}{spread}",
        measured,
        error_words(case.rate_error),
        *distances,
        error_words(case.time_error) if case.time_error is not None else "-",
        f"{100 * case.busy_share:.0f} %",
    )
    return f"| {' | '.join(cells)} |"
