"""What is said of an emulated cluster that cannot have what a plan wants; outputs that would replace inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import Ended

from twinstep.cautions import cautions
from twinstep.profile import Profile
from twinstep.scenario import load_scenario


def said(profile: Profile, *changes: str) -> list[str]:
    return [*cautions(load_scenario("star-8", changes), profile)]


def test_nothing_is_said_of_what_is_shipped(profile: Profile) -> None:
    assert said(profile) == []


def test_a_latency_that_is_left_out_is_named(profile: Profile) -> None:
    (caution,) = said(profile, "topology.link.latency=50 ms")
    assert "latency, up to 50.0 ms, is left out" in caution
    assert "run.backend local" in caution
    assert said(profile, "topology.link.latency=50 ms", "run.backend=local") == []


@pytest.mark.parametrize(("bandwidth", "count"), [("1 Gb/s", 0), ("20 Gb/s", 1)])
def test_links_that_the_cores_cannot_carry_are_named(profile: Profile, bandwidth: str, count: int) -> None:
    found = said(profile, f"topology.link.bandwidth={bandwidth}")
    assert len(found) == count
    assert all("of this machine's 2 cores" in caution for caution in found)


@pytest.mark.parametrize("command", ["check", "predict"])
def test_commands_say_so(command: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    out = () if command == "check" else ("--out", tmp_path)
    ended = run_cli(command, "star-8", "--set", "topology.link.latency=50 ms", *out)
    assert "is left out" in " ".join(ended.out.split())


def test_an_output_does_not_replace_its_scenario(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    scenario = tmp_path / "plan.yaml"
    device = "{peak: 1 TFLOP/s, memory_bandwidth: 1 TB/s}"
    text = (
        "workload: {kind: mlp, hidden: [8], batch: 4}\n"
        f"topology: {{builder: one_host, devices: 1, device: {device}}}\nrun: {{compute: emulated}}\n"
    )
    scenario.write_text(text)
    ended = run_cli("predict", scenario, "--out", tmp_path)
    assert ended.code == 2
    assert "is the scenario itself" in ended.err
    assert scenario.read_text() == text


def test_a_resolved_plan_can_be_predicted_in_its_folder(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    assert run_cli("predict", "star-8", "--out", tmp_path).code == 0
    assert run_cli("predict", tmp_path / "plan.yaml", "--out", tmp_path).code == 0
