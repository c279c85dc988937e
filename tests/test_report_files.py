"""The files that a command writes: the trace, and that each file is whole or not there."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.made_up import contents

from twinstep.errors import InputError
from twinstep.report.files import write_atomically, write_outputs
from twinstep.report.trace import chrome_trace
from twinstep.timeline import Observation, Span, Timeline
from twinstep.timeline_lines import from_json_lines, to_json_lines


def complete_events(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


@pytest.mark.parametrize(("predicted", "measured"), [(True, True), (True, False), (False, True)])
def test_trace_is_what_the_format_asks_for(*, predicted: bool, measured: bool) -> None:
    trace = chrome_trace(contents(3, predicted=predicted, measured=measured))
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    for event in trace["traceEvents"]:
        assert event["ph"] in "MX"
        assert isinstance(event["pid"], int)
        assert event["pid"] > 0
        assert isinstance(event["tid"], int)
        assert event["name"]
        assert event["ph"] == "M" or min(event["ts"], event["dur"]) >= 0
    named = {(event["pid"], event["tid"]) for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert named == {(event["pid"], event["tid"]) for event in complete_events(trace)}


@pytest.mark.parametrize("cut", [int, round])
def test_events_of_a_track_do_not_overlap(cut: Any) -> None:
    tracks = defaultdict(list)
    for event in complete_events(chrome_trace(contents(3))):
        start_ns = cut(event["ts"] * 1000.0)
        tracks[event["pid"], event["tid"]].append((start_ns, start_ns + cut(event["dur"] * 1000.0)))
    for spans in tracks.values():
        for (_, end_ns), (start_ns, _) in itertools.pairwise(sorted(spans)):
            assert end_ns <= start_ns


def test_trace_aligns_the_first_step_after_the_warm_up() -> None:
    made_up = contents()
    trace = chrome_trace(made_up)
    processes = {
        event["pid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"
    }
    assert sorted(processes.values()) == [
        "rank 0 measured",
        "rank 0 predicted",
        "rank 1 measured",
        "rank 1 predicted",
    ]
    first = {
        processes[event["pid"]]: event["ts"]
        for event in complete_events(trace)
        if event["args"]["step"] == 3 and event["args"]["phase"] == "step"
    }
    assert len(set(first.values())) == 1
    assert made_up.prediction
    assert made_up.measurement
    spans = made_up.prediction.timeline.spans + made_up.measurement.timeline.spans
    assert len(complete_events(trace)) == len(spans)


def test_a_trace_of_a_long_run_shows_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = contents()
    whole = chrome_trace(made_up)
    assert "otherData" not in whole
    assert made_up.prediction
    spans = made_up.prediction.timeline.spans
    steps = 1 + max(span.step for span in spans)
    monkeypatch.setattr("twinstep.report.trace.MOST_SPANS", len(spans) * 5 // steps)
    trace = chrome_trace(made_up)
    assert trace["otherData"] == {"steps": f"the first 5 of {steps}"}
    assert complete_events(trace) == [event for event in complete_events(whole) if event["args"]["step"] < 5]
    monkeypatch.setattr("twinstep.report.trace.MOST_SPANS", 1)
    shown = {event["args"]["step"] for event in complete_events(chrome_trace(made_up))}
    assert shown == set(range(made_up.prediction.timeline.warmup_steps + 1))


def test_lines_are_what_json_makes_of_spans_and_observations() -> None:
    spans = (
        Span(0, 1, "compute", 'for"ward\\[é]', "forward", 1e-07, 0.1 + 0.2),
        Span(70000, 0, "lane 2", "send", "communication", 0.0, 12345678901.125, 2**40, "data 3"),
    )
    observations = (
        Observation(1, 2, 0.5, "staleness", 3),
        Observation(1, 2, 1e22, "löss", 1 / 3),
        Observation(1, 2, 0.0, "loss", math.nan),
        Observation(1, 2, 0.0, "loss", 3.0),
    )
    _, *lines = to_json_lines(Timeline(spans, ranks=2, warmup_steps=0, observations=observations))
    assert lines == [json.dumps(each._asdict()) for each in (*spans, *observations)]


def test_outputs_are_complete(tmp_path: Path) -> None:
    made_up = contents()
    write_outputs(tmp_path / "new" / "run", made_up, html=True)
    written = {path.name for path in (tmp_path / "new" / "run").iterdir()}
    assert written == {
        "plan.yaml",
        "predicted.jsonl",
        "measured.jsonl",
        "trace.json",
        "report.html",
        "summary.json",
    }
    with (tmp_path / "new" / "run" / "measured.jsonl").open() as lines:
        assert made_up.measurement
        assert from_json_lines(lines) == made_up.measurement.timeline


def test_outputs_of_one_side(tmp_path: Path) -> None:
    write_outputs(tmp_path, contents(measured=False), html=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "plan.yaml",
        "predicted.jsonl",
        "trace.json",
        "summary.json",
    }


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"summary\.json: cannot be written: No space left on device\nfree some space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="a file is in the way: choose another folder with --out"):
        write_outputs(tmp_path / "run", contents(), html=False)


def test_text_that_utf8_cannot_hold_is_escaped(tmp_path: Path) -> None:
    write_atomically(tmp_path / "plan.yaml", "a\udcff")
    assert (tmp_path / "plan.yaml").read_text() == r"a\udcff"


def test_only_the_page_needs_plotly() -> None:
    modules = ", ".join(f"twinstep.report.{name}" for name in ("contents", "files", "summary", "terminal", "trace"))
    code = f"import sys, {modules}; sys.exit('plotly' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
