"""The output folder of a sweep: the report and, last, sweep.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twinstep.report.files import make_folder, write_atomically
from twinstep.report.sweep_words import crossover_words
from twinstep.sweep import Point, Swept


def write_sweep(folder: Path, swept: Swept) -> None:
    """Write report.html and sweep.json; each appears whole or not at all. Raises InputError where that is refused."""
    from twinstep.report.sweep_page import sweep_page

    make_folder(folder)
    write_atomically(folder / "report.html", sweep_page(swept))
    write_atomically(folder / "sweep.json", sweep_text(swept))


def sweep_text(swept: Swept) -> str:
    """Write all results as JSON, the same text for equal ones; it holds no NaN and no infinity."""
    return json.dumps(_sweep(swept), indent=2, allow_nan=False) + "\n"


def _sweep(swept: Swept) -> dict[str, Any]:
    agreement = swept.agreement
    return {
        "scenario": swept.scenario,
        "question": swept.question,
        "axes": [{"keys": axis.keys, "values": axis.values} for axis in swept.axes],
        "points": [_point(point) for point in swept.points],
        "crossovers": _crossovers(swept),
        "agreement": {
            "points": agreement.points,
            "mean_absolute_error": agreement.mean_absolute_error,
            "largest_error": agreement.largest_error,
            "spearman": agreement.spearman,
            "other_load_cores": agreement.other_load_cores,
        }
        if agreement
        else None,
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "settings": dict(point.settings),
        "predicted": point.predicted._asdict() if point.predicted else None,
        "measured": point.measured._asdict() if point.measured else None,
        "step_time_error": point.error,
        "problem": point.problem or None,
    }


def _crossovers(swept: Swept) -> dict[str, Any]:
    sides = {"predicted": swept.crossovers, "measured": swept.measured_crossovers}
    return {
        side: [each._asdict() | {"in_words": crossover_words(each, swept.axis)} for each in found]
        for side, found in sides.items()
    }
