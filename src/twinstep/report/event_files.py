"""Event files for TensorBoard: loss, step time, staleness and bytes of each step, of what a folder's timelines hold.

The wall time of an event is the end of its step on the run's own axis, so TensorBoard's relative time is the run's.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from twinstep.errors import InputError
from twinstep.report.files import make_folder, write_atomically
from twinstep.timeline import STEP_LANE, Timeline
from twinstep.timeline_lines import from_json_lines

_FILE = "events.out.tfevents.twinstep"
"""TensorBoard finds files by the middle of this name; writing again replaces it."""


class Scalar(NamedTuple):
    """One value of one step."""

    tag: str
    step: int
    time_s: float
    value: float


def write_event_files(folder: Path) -> list[Path]:
    """Write event files beside the timelines that a command has left in a folder; give their paths.

    Raises InputError where there is no timeline, tensorboardX is missing, or the file system refuses.
    """
    found = [name for name in ("predicted", "measured") if (folder / f"{name}.jsonl").is_file()]
    if not found:
        problem = f"{str(folder)!r} has neither predicted.jsonl nor measured.jsonl"
        raise InputError(problem, remedy="give the output folder of predict, measure or compare")
    paths = []
    for name in found:
        timeline = _read(folder / f"{name}.jsonl")
        make_folder(folder / "tensorboard" / name)
        paths.append(folder / "tensorboard" / name / _FILE)
        write_atomically(paths[-1], _events(scalars(timeline)))
    return paths


def _read(path: Path) -> Timeline:
    try:
        return from_json_lines(path.read_text(encoding="utf-8").splitlines())
    except (KeyError, OSError, TypeError, ValueError):
        raise InputError(
            f"{str(path)!r} is no timeline", remedy="write it anew by predict, measure or compare"
        ) from None


def scalars(timeline: Timeline) -> Iterator[Scalar]:
    """Give the values of each step: the slowest rank's time, bytes of all ranks, means of what is observed."""
    weights = {twins.representative: float(len(twins.ranks)) for twins in timeline.twins}
    ends_s: dict[int, float] = defaultdict(float)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for span in timeline.spans:
        if span.lane == STEP_LANE:
            ends_s[span.step] = max(ends_s[span.step], span.end_s)
            found["step_time_s", span.step].append(span.duration_s)
        elif span.size_bytes and not span.operation.startswith("recv"):
            found["bytes", span.step].append(span.size_bytes * weights[span.rank])
    for each in timeline.observations:
        found[each.name, each.step].append(each.value)
    merge: dict[str, Callable[[list[float]], float]] = {"step_time_s": max, "bytes": math.fsum}
    for (tag, step), values in sorted(found.items()):
        yield Scalar(tag, step, ends_s[step], merge.get(tag, statistics.fmean)(values))


def _events(values: Iterator[Scalar]) -> bytes:
    """Give the bytes of an event file."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        raise InputError("event files need tensorboardX", remedy="pip install twinstep[tensorboard]") from None
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        with SummaryWriter(folder) as writer:
            for value in values:
                if math.isfinite(value.value):
                    writer.add_scalar(value.tag, value.value, value.step, walltime=value.time_s)
        (file,) = Path(folder).iterdir()
        return file.read_bytes()
