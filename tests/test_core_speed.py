"""Core speed: what a run says of the cores that it ran on, and what a comparison makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.made_up import contents
from tests.test_backends import scenario_of
from tests.test_native import PLANS, plan_of
from tests.test_report_terminal import printed

from twinstep.cautions import of_the_machine
from twinstep.compare import compare
from twinstep.core_speed import REFERENCE, core_speed
from twinstep.exec import reference
from twinstep.exec.measure import measure
from twinstep.exec.pending import Observed
from twinstep.exec.reference import Reference
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.report.contents import Contents
from twinstep.report.html import render_html
from twinstep.report.summary import summary
from twinstep.timeline import Observation, Timeline


def observed(*seconds_by_step: tuple[float, ...]) -> Timeline:
    """Make a timeline in which each rank has timed the reference before each step."""
    found = (
        Observation(rank, step, float(step), REFERENCE, seconds)
        for step, by_rank in enumerate(seconds_by_step)
        for rank, seconds in enumerate(by_rank)
    )
    return Timeline((), ranks=2, warmup_steps=0, observations=tuple(found))


def calibrated(profile: Profile, reference_s: float | None) -> Profile:
    return profile.model_copy(update={"reference_s": reference_s})


def test_cores_that_take_twice_as_long_are_half_as_fast(profile: Profile) -> None:
    """The mean of all; that a step waits for its slower core is not modelled."""
    run = observed((1e-3, 3e-3), (1e-3, 3e-3))
    assert core_speed(calibrated(profile, 1e-3), run) == pytest.approx(0.5)


def test_nobody_knows_the_speed_of_cores_that_were_not_timed(profile: Profile) -> None:
    assert core_speed(calibrated(profile, 1e-3), observed()) is None
    assert core_speed(calibrated(profile, None), observed((1e-3,))) is None
    assert core_speed(None, observed((1e-3,))) is None


def compared(core_speed: float | None) -> Contents:
    """Make up a report of a run on cores of some speed; the prediction is off by -8.8 %."""
    shown = contents()
    assert shown.prediction
    assert shown.measurement
    sides = shown.prediction.timeline, shown.measurement.timeline
    comparison = compare(*sides, tolerance=0.1, core_speed=core_speed)
    return replace(shown, comparison=comparison, cautions=tuple(of_the_machine(comparison, 0.02)))


def test_a_prediction_for_slower_cores_is_longer() -> None:
    error = summary(compared(0.8))["error"]
    assert error["step_time_at_core_speed"] == pytest.approx(0.1394, abs=1e-4)
    assert summary(compared(None))["error"]["step_time_at_core_speed"] is None


@pytest.mark.parametrize(("speed", "error"), [(0.8, "+13.9 %"), (1.2, "-24.0 %")])
def test_cores_of_another_speed_are_told(speed: float, error: str) -> None:
    shown = compared(speed)
    for text in (" ".join(printed(shown).split()), render_html(shown)):
        assert f"The cores were {speed:.2f} times as fast" in text
        assert f"the error would be {error}." in text


@pytest.mark.parametrize("speed", [1.03, None])
def test_cores_of_the_same_or_an_unknown_speed_are_not_told(speed: float | None) -> None:
    shown = compared(speed)
    assert not shown.cautions


def test_of_a_busy_machine_its_load_is_told_and_not_its_speed() -> None:
    comparison = compared(0.8).comparison
    assert comparison
    (said,) = of_the_machine(comparison, 1.3)
    assert "a busy machine" in said


def test_what_the_machine_did_stands_beside_the_verdict() -> None:
    lines = printed(compared(0.8)).splitlines()
    assert lines[7].startswith("The cores were 0.80 times as fast")


def test_timing_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_ns = 0

    def now_ns() -> int:
        nonlocal clock_ns
        clock_ns += 1_000
        return clock_ns

    monkeypatch.setattr(reference, "now_ns", now_ns)
    own, found = Reference(), list[Observed]()
    for step in range(1_000):
        found += own.due(step)
    first, second, *_ = found
    assert first[:2] == (0, 1_000)
    assert (second[1] - first[1]) / 1_000 == pytest.approx(100, rel=0.02)  # a look at the clock takes 1 us


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["program", "native"])
def test_ranks_with_real_compute_tell_how_fast_their_cores_are(engine: str, tmp_path: Path) -> None:
    plan = plan_of(PLANS["replicas"]) if engine == "native" else scenario_of("two ranks", tmp_path).plan
    assert references(plan) == {0, 1}


@pytest.mark.slow
def test_ranks_whose_compute_is_emulated_tell_nothing(profile: Profile, tmp_path: Path) -> None:
    assert not references(scenario_of("emulated", tmp_path).plan)


def references(plan: Plan) -> set[int]:
    """Execute a plan; give the ranks that have timed the reference, which takes longer than a microsecond."""
    timeline = measure(plan, None, lambda step: None).timeline
    found = [each for each in timeline.observations if each.name == REFERENCE]
    assert all(1e-6 < each.value < 1 for each in found)
    return {each.rank for each in found}
