"""Whatever is wrong with an option or a profile: exit code 2 and one message; no traceback."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import GOOD, Ended, assert_refused

from twinstep.profile import Profile, to_json
from twinstep.scenario import load_scenario
from twinstep.workloads import Mlp


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.steps", ["--set run.steps: not an override", "--set partition.data=4"]),
        ("", ["--set : not an override"]),
        ("=3", ["--set =3: not an override"]),
        ("run..steps=3", ["--set run..steps=3: not an override"]),
        (".".join("k" * 1000) + "=3", ["not an override"]),
        ("run.steps=", ["the value of --set run.steps=", "holds nothing"]),
        ("run.steps=[", ["the value of --set run.steps=[", "not YAML"]),
        ("run.steps={a: b: c}", ["not YAML"]),
        ("run.steps=*a", ["the alias *a"]),
        ("run.steps=1e999", ["1e999 is not a finite number"]),
        ("run.steps=" + "[" * 5000, ["nested deeper than 20 levels"]),
        ("run.steps=" + "x" * 2_000_000, ["2000000 characters"]),
        ("run.steps=three", ["--set run.steps=three on ", "plan.yaml:16: run.steps: 'three' must be a whole number"]),
        ("run.stepz=3", ["--set run.stepz=3 on ", "unknown key", "did you mean 'steps'?"]),
        ("no.such.key=3", ["no: unknown key"]),
        ("0=3", ["0: unknown key"]),
        ("9" * 5000 + "=3", ["unknown key"]),
        ("run=5", ["run: 5 must be a mapping"]),
        ("workload.kind.name=3", ["workload.kind is 'mlp', which has no keys", "set that key itself"]),
        ("workload.hidden.2=3", ["workload.hidden is a list of 2, and '2' is not the index"]),
        ("workload.hidden.-1=3", ["workload.hidden is a list of 2, and '-1' is not the index"]),
        ("workload.hidden.first=3", ["workload.hidden is a list of 2, and 'first' is not the index"]),
        ("workload.hidden." + "9" * 5000 + "=3", ["is not the index"]),
        ("workload.hidden.0.width=3", ["workload.hidden.0 is 16, which has no keys"]),
        ("partition.data=4", ["--set partition.data=4 on ", "plan.yaml:7: ", "4 ranks", "3 devices"]),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_bad_overrides(override: str, words: list[str], run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    ended = run_cli("predict", path, "--out", tmp_path / "out", "--set", override)
    assert_refused(ended, "the value of --set" if words[0].startswith("the value") else "", *words)


def test_overrides_reach_lists_and_sections_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD.replace("sync:\n  bucket: 1 MiB\n", ""))
    overrides = ["workload.hidden.1=9", "sync.overlap=false", "question=a=b", "run.steps=7", "run.steps=8"]
    plan = load_scenario(str(path), overrides).plan
    assert isinstance(plan.workload, Mlp)
    assert plan.workload.hidden == (16, 9)
    assert not plan.sync.overlap
    assert plan.question == "a=b"
    assert plan.run.steps == 8


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/no-such", "/dev/null", "n" * 300])
def test_unwritable_output_folders(
    out: str, run_cli: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    assert_refused(run_cli("predict", "quickstart", "--out", out), f"{out}: ", "--out")
    assert Path("file").read_text() == "in the way"


def test_output_folder_with_a_folder_in_the_place_of_a_file(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").mkdir()
    assert_refused(run_cli("predict", "quickstart", "--out", tmp_path), str(tmp_path / "plan.yaml"), "--out")


def write(path: Path, content: str | bytes | None) -> None:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot read the profile: No such file"]),
        ("", ["not a profile"]),
        ("curves: 3", ["not a profile"]),
        ("[1, 2]", ["not a profile"]),
        ("{}", ["not a profile"]),
        ("[" * 100_000, ["not a profile"]),
        (b"\xff\xfe\x00", ["not a profile"]),
        (" " * (16 * 2**20 + 1), ["larger than 16 MiB"]),
    ],
    ids=["missing", "empty", "YAML", "list", "object", "deep", "binary", "large"],
)
def test_files_that_are_no_profile(
    content: str | bytes | None, words: list[str], run_cli: Callable[..., Ended], tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    write(path, content)
    ended = run_cli("predict", "quickstart", "--out", tmp_path / "out", "--profile", path)
    assert_refused(ended, f"{path}: ", "twinstep calibrate --out FILE", *words)


def test_folder_for_a_profile(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run_cli("predict", "quickstart", "--out", tmp_path / "out", "--profile", tmp_path)
    assert_refused(ended, f"{tmp_path}: the profile is not a regular file")


LINEAR = ("devices", "cpu", "kernels", "linear_forward")
ALL_REDUCE = ("collectives", "gloo", "all_reduce")
BAD_PROFILE_FIELDS: dict[str, tuple[tuple[str, ...], Any]] = {
    "another format": (("format",), 1),
    "unknown field": (("colour",), "red"),
    "missing devices": (("devices",), None),
    "text for a number": (("overheads", "compute_s"), "5 us"),
    "negative time": (("overheads", "compute_s"), -1.0),
    "no peak": (("devices", "cpu", "peak_flops_per_s"), 0.0),
    "not a number": (("devices", "cpu", "launch_s"), math.nan),
    "infinite": (("devices", "cpu", "launch_s"), math.inf),
    "times missing": ((*LINEAR, "idle_s"), [1.0]),
    "sizes that fall": ((*LINEAR, "grid"), [[2, 1], [1], [1]]),
    "rows missing": ((*ALL_REDUCE, "elapsed_s"), [[1.0]]),
    "no cores": (("machine", "cores"), 0),
    "no date": (("created",), "yesterday"),
    "date without a zone": (("created",), "2026-11-21T09:12:31"),
    "axis missing": (LINEAR, {"grid": [[1]], "idle_s": [1e-6], "busy_s": [1e-6]}),
    "no size": (LINEAR, {"grid": [[0, 10**5], [1], [1]], "idle_s": [1e-6, 1e-3], "busy_s": [1e-6, 1e-3]}),
    "unknown kernel": (("devices", "cpu", "kernels", "dance"), {"grid": [[1]], "idle_s": [1.0], "busy_s": [1.0]}),
    "equal sizes": ((*ALL_REDUCE, "sizes_bytes"), [5] * 7),
    "endless time": (("overheads", "compute_s"), 1e308),
}


def changed(profile: Profile, path: tuple[str, ...], value: Any) -> str:
    record = json.loads(to_json(profile))
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return json.dumps(record)


def refuse_profile(text: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    ended = run_cli("predict", "quickstart", "--out", tmp_path / "out", "--profile", path)
    assert_refused(ended, f"{path}: not a profile: ", "twinstep calibrate --out FILE")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", BAD_PROFILE_FIELDS)
def test_profiles_with_bad_fields(bad: str, profile: Profile, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    refuse_profile(changed(profile, *BAD_PROFILE_FIELDS[bad]), run_cli, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "no-such-scenario"],
        ["measure", "quickstart", "--set", "partition.data=3"],
        ["compare", "quickstart", "--out", "/proc/no-such"],
        ["predict"],
        ["predict", "quickstart", "--no-such-option"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_real_command_line_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twinstep", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_line_numbers_are_not_taken_for_emoji(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "[red]:smile:.yaml"
    path.write_text("#\n" * 99 + "a: *b\n")
    assert_refused(run_cli("predict", path), f"{path}:100: ")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["schema"], ["predict", "quickstart", "--json"], ["predict", "quickstart"]])
def test_closed_standard_output_is_a_failed_run(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twinstep", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err == "error: standard output was closed\n"
