"""Event files for TensorBoard: the values of each step, read back record by record."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstep.report.event_files import scalars, write_event_files
from twinstep.timeline import Observation, Span, Timeline
from twinstep.timeline_lines import to_json_lines

TIMELINE = Timeline(
    spans=(
        Span(0, 0, "data", "all_reduce", "communication", 0.2, 0.9, 100, "data"),
        Span(0, 0, "step", "step", "step", 0.0, 1.0),
        Span(1, 0, "data", "all_reduce", "communication", 0.3, 0.9, 100, "data"),
        Span(1, 0, "step", "step", "step", 0.0, 1.5),
        Span(1, 1, "messages", "recv messages[hop=0>1]", "communication", 1.6, 1.9, 40, "data"),
        Span(0, 1, "messages", "send messages[hop=0>1]", "communication", 1.6, 1.9, 40, "data"),
        Span(0, 1, "step", "step", "step", 1.0, 2.0),
        Span(1, 1, "step", "step", "step", 1.5, 2.1),
    ),
    ranks=2,
    warmup_steps=0,
    observations=(Observation(0, 0, 0.1, "loss", 3.0), Observation(1, 0, 0.2, "loss", 5.0)),
)
EXPECTED = {
    ("bytes", 0): (1.5, 200.0),
    ("bytes", 1): (2.1, 40.0),
    ("loss", 0): (1.5, 4.0),
    ("step_time_s", 0): (1.5, 1.5),
    ("step_time_s", 1): (2.1, 1.0),
}


def test_a_step_has_the_slowest_time_the_mean_loss_and_all_bytes_once() -> None:
    assert {(each.tag, each.step): (each.time_s, each.value) for each in scalars(TIMELINE)} == EXPECTED


def records(data: bytes) -> Iterator[bytes]:
    """Cut an event file up: length, its checksum, the record, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_event_files_hold_these_values(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (tmp_path / "measured.jsonl").write_text("\n".join(to_json_lines(TIMELINE)))
    for _ in range(2):
        (written,) = write_event_files(tmp_path)
    assert [path.name for path in written.parent.iterdir()] == [written.name]
    assert written.parent == tmp_path / "tensorboard" / "measured"
    found = {}
    for record in records(written.read_bytes()):
        event = event_pb2.Event.FromString(record)
        found |= {(v.tag, event.step): (event.wall_time, v.simple_value) for v in event.summary.value}
    assert found == EXPECTED


def test_a_folder_without_timelines_is_bad_input(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("tensorboard", str(tmp_path))
    assert ended.code == 2
    assert "predicted.jsonl" in ended.err
    (tmp_path / "predicted.jsonl").write_text("nonsense\n")
    assert run_cli("tensorboard", str(tmp_path)).code == 2
