"""The run of a sweep: every combination is loaded, predicted and, where it is asked for, executed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from twinstep import workflow
from twinstep.errors import InputError, RunError
from twinstep.progress import progress as progress_of
from twinstep.report.contents import Prediction
from twinstep.scenario import Scenario, SweptFile, load_scenario
from twinstep.sweep.axes import Setting
from twinstep.sweep.crossovers import crossovers
from twinstep.sweep.points import (
    Agreement,
    Line,
    Point,
    Side,
    Swept,
    chart_axis,
    lines,
    positions,
    setting_words,
    settings_at,
)
from twinstep.timeline import Timeline
from twinstep.workflow import Progress
from twinstep.workloads import CollectiveBench


@dataclass(frozen=True)
class SweepRun:
    """A scenario whose points are to be run."""

    scenario: str
    """A path, or a shipped scenario's name."""
    file: SweptFile
    overrides: Sequence[str]
    profile: Path | None
    _sought: dict[str, float | None] = field(default_factory=dict)
    """Step times between points, by the settings in words."""

    def predict(self, progress: Progress) -> Swept:
        """Predict all points, and look for crossovers between them.

        Raises InputError where not one of them is valid.
        """
        axes = self.file.axes
        everything = list(positions(axes))
        points = []
        for done, position in enumerate(everything):
            progress(done / len(everything))
            points.append(self._point(position))
        if not any(point.predicted for point in points):
            first = points[0]
            problem = f"no point can be predicted; {setting_words(first.settings)}: {first.problem}"
            raise InputError(problem, remedy="`twinstep check` with --set says more", place=self.file.name)
        found = crossovers(axes, lines(axes, points), predicted_s, self._seek)
        return Swept(self.file.name, self.file.question, axes, tuple(points), found)

    def check_executable(self, swept: Swept) -> None:
        """Raise InputError where this machine can execute none of the points."""
        problems = [self._refusal(point) for point in swept.points if point.predicted]
        if all(problems):
            raise problems[0]  # type: ignore[misc]

    def measure(self, swept: Swept, progress: Progress) -> Swept:
        """Execute the points that can be; one that fails says so, and the others go on."""
        points = []
        for done, point in enumerate(swept.points):
            points.append(self._measured(point, _part(progress, done, len(swept.points))))
        found = crossovers(swept.axes, lines(swept.axes, points), measured_s)
        return replace(swept, points=tuple(points), measured_crossovers=found, agreement=agreement(points))

    def _load(self, settings: Sequence[Setting]) -> Scenario:
        return load_scenario(self.scenario, self.overrides, settings)

    def _point(self, position: tuple[int, ...]) -> Point:
        settings = settings_at(self.file.axes, position)
        try:
            scenario = self._load(settings)
            return Point(position, settings, predicted_side(scenario, self._predict(scenario)))
        except InputError as error:
            return Point(position, settings, problem=error.problem)
        except RunError as error:
            return Point(position, settings, problem=str(error))

    def _predict(self, scenario: Scenario) -> Prediction:
        return workflow.predict(scenario, workflow.find_profile(scenario, self.profile, _unheard))

    def _seek(self, line: Line, value: int) -> float | None:
        """Predict the step time of a line at a value between its points; None where there is no such plan."""
        (key,) = self.file.axes[chart_axis(self.file.axes)].keys
        settings = (*line.settings, (key, value))
        known = repr(settings)
        if known not in self._sought:
            try:
                self._sought[known] = self._predict(self._load(settings)).timeline.step_time_s()
            except (InputError, RunError):
                self._sought[known] = None
        return self._sought[known]

    def _refusal(self, point: Point) -> InputError | None:
        try:
            workflow.check_executable(self._load(point.settings))
        except InputError as error:
            return error
        return None

    def _measured(self, point: Point, progress: Progress) -> Point:
        if point.predicted is None:
            return point
        if refusal := self._refusal(point):
            return replace(point, problem=refusal.problem)
        scenario = self._load(point.settings)
        try:
            profile = workflow.find_profile(scenario, None, _unheard) if scenario.emulates_calibrated_devices else None
            measurement = workflow.measure(scenario, profile, progress)
        except (InputError, RunError) as error:
            return replace(point, problem=str(error), failed=True)
        measured = side(scenario, measurement.timeline)._replace(other_load_cores=measurement.other_load_cores)
        return replace(point, measured=measured)


def _part(progress: Progress, done: int, total: int) -> Progress:
    """Give the progress of one of several parts, of which some are done."""
    return lambda share: progress((done + share) / total)


def _unheard(share: float) -> None:
    """Take the progress of a calibration, which says by itself that it begins."""


def predicted_s(point: Point) -> float | None:
    """Give the predicted step time of a point."""
    return point.predicted.step_time_s if point.predicted else None


def measured_s(point: Point) -> float | None:
    """Give the measured step time of a point."""
    return point.measured.step_time_s if point.measured else None


def predicted_side(scenario: Scenario, prediction: Prediction) -> Side:
    """Sum a prediction up."""
    links = prediction.communication.links
    busiest = max(links, key=lambda link: link.size_bytes, default=None)
    found = side(scenario, prediction.timeline)
    if busiest is None:
        return found
    per_step = busiest.size_bytes / prediction.timeline.total_steps
    return found._replace(busiest_link=f"{busiest.source} to {busiest.target}", busiest_link_bytes_per_step=per_step)


def side(scenario: Scenario, timeline: Timeline) -> Side:
    """Sum a run up, but for its links."""
    plan = scenario.plan
    rate = progress_of(timeline).worker_steps_per_s
    samples = None if isinstance(plan.workload, CollectiveBench) else rate / plan.workers * plan.training.samples
    return Side(
        step_time_s=timeline.step_time_s(),
        worker_steps_per_s=rate if math.isfinite(rate) else None,
        samples_per_s=samples if samples is not None and math.isfinite(samples) else None,
        busiest_link="",
        busiest_link_bytes_per_step=0.0,
    )


def agreement(points: Sequence[Point]) -> Agreement | None:
    """Hold predicted step times against measured ones, over the points that have both; None where none has."""
    from scipy.stats import spearmanr

    pairs = [(p.predicted.step_time_s, p.measured.step_time_s) for p in points if p.predicted and p.measured]
    if not pairs:
        return None
    errors = [abs(predicted / measured - 1) for predicted, measured in pairs]
    predicted, measured = zip(*pairs, strict=True)
    differ = len(set(predicted)) > 1 and len(set(measured)) > 1
    order = float(spearmanr(predicted, measured).statistic) if differ else None
    loads = [p.measured.other_load_cores for p in points if p.measured and p.measured.other_load_cores is not None]
    return Agreement(len(pairs), statistics.fmean(errors), max(errors), order, max(loads, default=None))
