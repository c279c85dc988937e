"""summary.json: the facts of a run for other programs.

A part that was not run is null; errors are signed fractions, (predicted - measured) / measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from twinstep.bubbles import Bubbles
from twinstep.communication import Communication
from twinstep.compare import Comparison
from twinstep.memory_use import MemoryUse
from twinstep.progress import Progress, rate_error, staleness_distance, time_to_loss_error
from twinstep.report.contents import Contents, Measurement, Prediction
from twinstep.report.engines import engine_differences
from twinstep.report.memory_rows import memory_rows
from twinstep.report.traffic import crossings


def summary(contents: Contents) -> dict[str, Any]:
    """Give the facts as plain JSON values, always with the same keys in the same order."""
    comparison = contents.comparison
    return {
        "scenario": contents.scenario,
        "ranks": contents.ranks,
        "tolerance": contents.tolerance,
        "cautions": list(contents.cautions),
        "verdict": comparison.verdict if comparison else None,
        "predicted": _predicted(contents.prediction) if contents.prediction else None,
        "measured": _measured(contents.measurement) if contents.measurement else None,
        "structure": _structure(comparison) if comparison else None,
        "error": _error(contents, comparison) if comparison else None,
        "by_programs": _by_programs(contents, contents.by_programs) if contents.by_programs else None,
    }


def summary_text(contents: Contents) -> str:
    """Write the summary as JSON, the same text for equal contents; it holds no NaN and no infinity."""
    return json.dumps(summary(contents), indent=2, allow_nan=False) + "\n"


def _predicted(prediction: Prediction) -> dict[str, Any]:
    return {
        "step_time_s": prediction.timeline.step_time_s(),
        "phases_s": prediction.timeline.phases_s(),
        "peak_memory_bytes": prediction.peak_memory_bytes,
        "memory_by_rank": _memory(prediction.memory_by_rank),
        "simulation_wall_s": prediction.simulation_wall_s,
        "events": prediction.events,
        "communication": _communication(prediction.communication),
        "algorithms": prediction.algorithms,
        "progress": _progress(prediction.progress()),
        "lost_ranks": list(prediction.timeline.lost),
        "bubble": _bubble(prediction.bubbles),
    }


def _memory(by_rank: Mapping[int, MemoryUse]) -> dict[str, Any]:
    return {str(rank): use._asdict() for rank, use in by_rank.items()}


def _bubble(found: Bubbles | None) -> dict[str, Any] | None:
    if found is None:
        return None
    by_rank = {str(rank): share for rank, share in found.by_rank.items()}
    return {"by_rank": by_rank, "mean": found.mean, "closed_form": found.closed_form}


def _progress(found: Progress) -> dict[str, Any]:
    last = found.loss_by_step[-1] if found.loss_by_step else None
    whole = found.whole_loss_by_time[-1].loss if found.whole_loss_by_time else None
    return {
        "worker_steps_per_s": found.worker_steps_per_s if math.isfinite(found.worker_steps_per_s) else None,
        "rates_by_chance": list(found.rates_by_chance),
        "staleness": {str(value): share for value, share in found.staleness.items()},
        "mean_staleness": found.mean_staleness,
        "final_loss": last if last is not None and math.isfinite(last) else None,
        "final_whole_loss": whole if whole is not None and math.isfinite(whole) else None,
    }


def _communication(found: Communication) -> dict[str, Any]:
    return {
        "exposed_s": found.exposed_s,
        "hidden_s": found.hidden_s,
        "collectives": [
            use._asdict()
            | {
                "algorithm_bandwidth_bytes_per_s": use.algorithm_bandwidth_bytes_per_s,
                "bus_bandwidth_bytes_per_s": use.bus_bandwidth_bytes_per_s,
            }
            for use in found.collectives
        ],
        "links": [use._asdict() for use in found.links],
        "repartition": found.repartition._asdict() if found.repartition else None,
        "groups": [each._asdict() for each in found.groups],
    }


def _measured(measurement: Measurement) -> dict[str, Any]:
    timeline = measurement.timeline
    final = measurement.losses[-1] if measurement.losses else None
    return {
        "step_time_s": timeline.step_time_s(),
        "step_time_iqr_s": timeline.step_time_iqr_s(),
        "steps": len(timeline.steps()),
        "phases_s": timeline.phases_s(),
        "other_load_cores": measurement.other_load_cores,
        "cores_busy_share": measurement.counts.cores_busy_share if measurement.counts else None,
        "final_loss": final if final is not None and math.isfinite(final) else None,
        "memory_by_rank": _memory(measurement.memory_by_rank),
        "communication": _communication(measurement.communication),
        "progress": _progress(measurement.progress()),
        "lost_ranks": list(timeline.lost),
        "links": [
            {
                "source": link.source,
                "target": link.target,
                "size_bytes": link.size_bytes,
                "utilisation": link.utilisation,
            }
            for link in (measurement.counts.links if measurement.counts else ())
        ],
        "bubble": _bubble(measurement.bubbles),
    }


def _structure(comparison: Comparison) -> dict[str, Any]:
    compared = "kinds, counts, bytes and groups" if comparison.of_wrappers else "operations"
    return {"match": not comparison.differences, "compared": compared, "differences": list(comparison.differences)}


def _by_programs(contents: Contents, measurement: Measurement) -> dict[str, Any]:
    differences = engine_differences(contents)
    structure = {"match": not differences, "differences": list(differences)}
    return _measured(measurement) | {"structure": structure}


def _error(contents: Contents, comparison: Comparison) -> dict[str, Any]:
    return {
        "step_time": comparison.step_time_error,
        "core_speed": comparison.core_speed,
        "step_time_at_core_speed": comparison.error_at_core_speed,
        "phases": {row.term: row.error for row in comparison.phases},
        "blame": [
            {"term": blame.term, "share": blame.share, "difference_s": blame.difference_s} for blame in comparison.blame
        ],
        "collectives": {row.term: row.error for row in comparison.collectives},
        "links": {crossing.name: crossing.error for crossing in crossings(contents)},
        "progress": _progress_error(contents),
        "memory_by_rank": {str(row.rank): row.errors for row in memory_rows(contents) if row.errors},
    }


def _progress_error(contents: Contents) -> dict[str, Any]:
    predicted, measured = (side.progress() for side in (contents.prediction, contents.measurement) if side)
    return {
        "worker_steps_per_s": rate_error(predicted, measured),
        "staleness_distance": staleness_distance(predicted, measured) if predicted.staleness else None,
        "time_to_loss": time_to_loss_error(predicted, measured),
    }
