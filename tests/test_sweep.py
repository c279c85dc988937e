"""Sweeps: axes, points held against single predictions and against closed forms, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.command_line import GOOD, Ended, assert_refused
from tests.small_plans import BYTES_PER_S, HOP_S

from twinstep import workflow
from twinstep.profile import Profile
from twinstep.scenario import load_scenario, load_sweep
from twinstep.sweep import Point, Side, Sweep
from twinstep.sweep.run import SweepRun, agreement

RunCli = Callable[..., Ended]


def swept(tmp_path: Path, sweep: str, scenario: str = GOOD) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(f"{scenario}sweep:\n{sweep}", encoding="utf-8")
    return path


def test_keys_vary_together() -> None:
    (axis,) = Sweep({"partition.data, topology.hosts": [[2, 3], [4, 5]]}).axes
    assert axis.settings(1) == (("partition.data", 4), ("topology.hosts", 5))
    assert axis.numbers == (2.0, 4.0)
    assert not axis.is_whole


@pytest.mark.parametrize(
    "sweep",
    [
        {},
        {"a": []},
        {"a, b": [[1, 2], [3]]},
        {"a, b": [1, 2]},
        {"a": [1], "b, a": [[1, 2]]},
        {"a,": [[1, 2]]},
        {"a": list(range(101)), "b": list(range(10))},
    ],
)
def test_bad_sections_are_refused(sweep: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sweep.model_validate(sweep)


def test_agreement_is_over_points_with_both() -> None:
    sides = [(1.0, 2.0), (3.0, 2.5), (5.0, 4.0), (7.0, None)]
    points = [Point((0,), (), *(Side(each, None, None, "", 0.0) if each else None for each in pair)) for pair in sides]
    found = agreement(points)
    assert found is not None
    assert found.points == 3
    assert found.mean_absolute_error == pytest.approx((0.5 + 0.2 + 0.25) / 3)
    assert found.largest_error == pytest.approx(0.5)
    assert found.spearman == pytest.approx(1.0)
    assert agreement(points[3:]) is None


def test_every_point_is_the_prediction_of_that_plan(tmp_path: Path, run_cli: RunCli, profile: Profile) -> None:
    path = swept(tmp_path, "  partition.data: [1, 2, 3]\n  run.steps: [2, 3]\n")
    ended = run_cli("sweep", path, "--json", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (tmp_path / "out" / "sweep.json").read_text() == ended.out
    assert len(found["points"]) == 6
    for each in found["points"]:
        overrides = [f"{key}={value}" for key, value in each["settings"].items()]
        scenario = load_scenario(str(path), overrides)
        known = profile if workflow.needs_profile(scenario) else None
        timeline = workflow.predict(scenario, known).timeline
        assert each["predicted"]["step_time_s"] == timeline.step_time_s()
        assert each["predicted"]["samples_per_s"] == pytest.approx(12 / timeline.step_time_s(), rel=0.01)


def test_bytes_of_the_busiest_link_are_those_of_the_ring(tmp_path: Path, run_cli: RunCli) -> None:
    """2 (n - 1)/n of the gradients cross each link of a star in each direction."""
    path = swept(tmp_path, "  partition.data: [2, 4]\n", IDEAL)
    found = json.loads(run_cli("sweep", path, "--json", "--out", tmp_path / "out").out)
    for each, ranks in zip(found["points"], (2, 4), strict=True):
        expected = 2 * (ranks - 1) / ranks * parameter_bytes(path)
        assert each["predicted"]["busiest_link_bytes_per_step"] == pytest.approx(expected, rel=1e-3)


def test_invalid_points_are_listed_and_the_others_predicted(tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [1, 3, 5, 4]\n")
    ended = run_cli("sweep", path, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "partition.data 5: partition.data (5) must divide workload.batch (12)" in ended.out
    assert "partition.data 4: partition.data asks for 4 ranks" in ended.out
    problems = [each["problem"] for each in json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]]
    assert [problem is None for problem in problems] == [True, True, False, False]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "partition.data (5) must divide" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vary", "partition.data=5,7"], ["no point can be predicted", "must divide workload.batch"]),
        (["--vary", "partition.dat=1,2"], ["no point", "partition.dat"]),
        (["--vary", "partition.data="], ["--vary partition.data=", "has no values"]),
        (["--vary", "partition.data"], ["has no values"]),
        (["--vary", "=1,2"], ["is not a key"]),
        (["--vary", "partition.data=[1"], ["not YAML"]),
        (["--vary", "a..b=1"], ["is not a key"]),
        (["--vary", "a,b=[1,2],[3]"], ["2 keys"]),
        (["--set", "sweep.run.steps=3"], ["sweep"]),
    ],
)
def test_bad_options_are_refused(arguments: list[str], words: list[str], tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [1, 2]\n")
    ended = run_cli("sweep", path, *arguments, "--out", tmp_path / "out")
    assert_refused(ended, "", *words)
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_without_a_section_or_an_option_there_is_nothing_to_sweep(tmp_path: Path, run_cli: RunCli) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    assert_refused(run_cli("sweep", path, "--out", tmp_path / "out"), str(path), "nothing to sweep", "--vary")
    assert run_cli("sweep", path, "--vary", "partition.data=1,2", "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    "section", ["  []\n", "  partition.data: 4\n", "  partition.data: []\n", "  partition.data:\n"]
)
def test_bad_sections_are_refused_with_their_line(section: str, tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, section)
    for command in ("check", "sweep"):
        ended = run_cli(command, path)
        assert_refused(ended, f"{path}:", "sweep")


def test_other_commands_take_the_plan_as_it_stands(tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [1, 3]\n")
    plain = tmp_path / "plain.yaml"
    plain.write_text(GOOD)
    assert load_scenario(str(path)).plan == load_scenario(str(plain)).plan
    assert run_cli("predict", path, "--out", tmp_path / "out").code == 0
    assert "sweep" not in (tmp_path / "out" / "plan.yaml").read_text()


def test_an_option_takes_the_place_of_the_same_key(tmp_path: Path) -> None:
    path = swept(tmp_path, "  partition.data, run.steps: [[1, 2], [2, 3]]\n  sync.overlap: [true, false]\n")
    axes = load_sweep(str(path), (), ["run.steps=4,5", "run.seed=1"]).axes
    assert [each.name for each in axes] == ["run.steps", "sync.overlap", "run.seed"]


def test_what_is_set_does_not_vary(tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [1, 2]\n  run.steps: [2, 3]\n")
    ended = run_cli("sweep", path, "--set", "partition.data=3", "--json", "--out", tmp_path / "out")
    assert [each["settings"] for each in json.loads(ended.out)["points"]] == [{"run.steps": 2}, {"run.steps": 3}]
    nothing = run_cli("sweep", path, "--set", "partition.data=3", "--set", "run.steps=2", "--out", tmp_path / "out")
    assert_refused(nothing, "", "nothing to sweep")


IDEAL = """\
question: Ring or server?
workload: {kind: mlp, hidden: [256, 256], batch: 1680}
partition: {data: 2}
communication: {library: ideal, algorithm: ring}
topology:
  builder: star
  hosts: 40
  device: {peak: 1000000 TFLOP/s, memory_bandwidth: 1000000 GB/s}
  link: {bandwidth: 10 Gb/s, latency: 5 us}
  internal_link: {bandwidth: 1000000 GB/s, latency: 0.001 ns}
run: {steps: 5, warmup: 0, compute: emulated}
"""
SERVERS = 8


def parameter_bytes(path: Path) -> int:
    from twinstep.programs import lower

    return sum(each.size_bytes for each in lower(load_scenario(str(path)).plan).model(0).parameters)  # type: ignore[attr-defined]


def ring_s(ranks: int, size_bytes: float) -> float:
    """2 (n - 1) steps of a latency and an n-th of the bytes."""
    return 2 * (ranks - 1) * (size_bytes / ranks / BYTES_PER_S + HOP_S)


def servers_s(ranks: int, size_bytes: float) -> float:
    """In and out by the links of the servers, or by the worker's own."""
    return 2 * (max(ranks / SERVERS, 1) * size_bytes / BYTES_PER_S + HOP_S)


@pytest.mark.slow
def test_ring_and_servers_cross_where_the_closed_forms_do(tmp_path: Path, run_cli: RunCli) -> None:
    """Few workers: the ring has less to send. Then its steps cost more than that, until the servers' links are full."""
    size = "{method: all_reduce}, {method: parameter_server, servers: {count: 8}}"
    path = swept(tmp_path, f"  partition.data: [2, 4, 8, 16, 30]\n  sync: [{size}]\n", IDEAL)
    found = json.loads(run_cli("sweep", path, "--json", "--out", tmp_path / "out").out)
    size_bytes = parameter_bytes(path)
    for each in found["points"]:
        ranks = each["settings"]["partition.data"]
        law = ring_s if each["settings"]["sync"]["method"] == "all_reduce" else servers_s
        assert each["predicted"]["step_time_s"] == pytest.approx(law(ranks, size_bytes), rel=1e-3)
    valid = [ranks for ranks in range(2, 31) if 1680 % ranks == 0]
    ring_is_faster = [ring_s(ranks, size_bytes) < servers_s(ranks, size_bytes) for ranks in valid]
    changes = [
        (str(valid[index]), str(valid[index + 1]))
        for index in range(len(valid) - 1)
        if ring_is_faster[index] != ring_is_faster[index + 1]
    ]
    assert changes, "the case has no crossover"
    assert [(each["low"], each["high"]) for each in found["crossovers"]["predicted"]] == changes


def test_a_point_that_cannot_be_executed_is_refused_by_measure(tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [2, 4]\n", IDEAL)
    ended = run_cli("sweep", path, "--measure", "--out", tmp_path / "out")
    assert_refused(ended, "", "can only be predicted")


@pytest.mark.slow
def test_measured_points_stand_beside_predicted_ones(tmp_path: Path, run_cli: RunCli) -> None:
    path = swept(tmp_path, "  partition.data: [1, 2]\n  run.stragglers: [[], [{rank: 1, slowdown: 2}]]\n")
    ended = run_cli("sweep", path, "--measure", "--json", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    measured = [each["measured"] is not None for each in found["points"]]
    assert measured == [True, False, True, True], "a straggler of one rank alone does not exist"
    assert found["agreement"]["points"] == 3


def test_the_run_of_a_sweep_is_the_same_twice(tmp_path: Path) -> None:
    path = swept(tmp_path, "  partition.data: [1, 2, 3]\n")
    first, second = (SweepRun(str(path), load_sweep(str(path)), (), None).predict(lambda share: None) for _ in range(2))
    assert first == second
