"""Progress: rates, staleness and losses of a timeline, and what is drawn of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.made_up import contents
from tests.test_report_terminal import printed

from twinstep import cli, workflow
from twinstep.progress import Spread, common_target, progress, staleness_distance
from twinstep.report.figures import charts
from twinstep.report.html import render_html
from twinstep.report.summary import summary, summary_text
from twinstep.timeline import Observation, Span, Timeline


def lived(scale: float = 1.0) -> Timeline:
    """Two workers and a server: three steps of one second times `scale`, the loss halved in each of them."""
    spans, observations = [], []
    for rank in range(3):
        for step in range(3):
            begin_s = (step + 0.1 * rank) * scale
            spans.append(Span(rank, step, "step", "step", "step", begin_s, begin_s + scale))
            if rank < 2:
                observations.append(Observation(rank, step, begin_s, "loss", (4.0 + rank) / 2**step))
            observations.append(Observation(2, step, begin_s, "staleness", min(step, rank)))
    ordered = sorted(observations, key=lambda each: each.time_s)
    return Timeline(tuple(spans), 3, 1, observations=tuple(ordered), reactive=(2,))


def test_workers_alone_count_and_the_warm_up_does_not() -> None:
    """Four steps of two workers from 1 to 3.1 s."""
    assert progress(lived()).worker_steps_per_s == pytest.approx(4 / 2.1)


def test_staleness_is_a_distribution() -> None:
    found = progress(lived())
    assert found.staleness == pytest.approx({0: 2 / 6, 1: 3 / 6, 2: 1 / 6})
    assert found.mean_staleness == pytest.approx(5 / 6)
    assert staleness_distance(found, found) == 0
    assert staleness_distance(found, replace(found, staleness={3: 1.0})) == pytest.approx(1)


def test_losses_are_means_over_workers_by_step_and_of_the_last_by_time() -> None:
    found = progress(lived())
    assert found.loss_by_step == (4.5, 2.25, 1.125)
    assert found.loss_by_time[0] == (0.1, 4.5)
    assert found.loss_by_time[1] == (1.0, 3.5)
    assert found.least_loss == 1.125


def test_the_common_target_is_what_both_reach() -> None:
    quick, slow = progress(lived()), progress(lived(2.0))
    target = common_target(quick, slow)
    assert target == 1.125
    assert (quick.time_to_loss_s(target), slow.time_to_loss_s(target)) == pytest.approx((2.1, 4.2))
    assert quick.time_to_loss_s(0.5) is None
    assert common_target(quick, replace(slow, loss_by_time=())) is None


def learnt(**sides: bool) -> Any:
    """Give made-up contents whose timelines have observations."""
    made_up = contents(**sides)
    scales = {"prediction": 1.0, "measurement": 1.25}
    found = {}
    for name, scale in scales.items():
        side = getattr(made_up, name)
        if side is not None:
            warmup = side.timeline.warmup_steps
            observations = tuple(each._replace(step=each.step + warmup) for each in lived(scale).observations)
            found[name] = replace(side, timeline=replace(side.timeline, observations=observations))
    return replace(made_up, **found)


@pytest.mark.parametrize("sides", [{}, {"measured": False}, {"predicted": False}])
def test_losses_and_staleness_are_drawn(sides: dict[str, bool]) -> None:
    shown = learnt(**sides)
    drawn = charts(shown)
    assert {"lossbystep", "lossbytime", "staleness"} <= set(drawn)
    count = len(sides) or 0
    assert all(len(drawn[key].figure.data) == 2 - count for key in ("lossbystep", "lossbytime", "staleness"))
    assert "Staleness" in render_html(shown)


def test_the_report_says_between_which_rates_chance_leaves_a_prediction() -> None:
    shown = learnt()
    assert shown.prediction is not None
    rates = (0.0019, 0.002, 0.00225)
    by_chance = replace(shown.prediction, spread=Spread(rates, shown.prediction.progress().staleness))
    caption = charts(replace(shown, prediction=by_chance))["staleness"].caption
    assert "(0.0019 to 0.00225 in 3 simulations), measured" in caption


def test_the_summary_compares_them() -> None:
    found = summary(learnt())["error"]["progress"]
    assert found["time_to_loss"] == pytest.approx(1 / 1.25 - 1)
    assert found["staleness_distance"] == 0
    assert json.loads(summary_text(learnt()))["predicted"]["progress"]["final_loss"] == 1.125


def test_the_terminal_says_how_far_rates_and_times_to_a_loss_are_off() -> None:
    lines = {line[: line.find("  ")]: line for line in printed(learnt()).splitlines()}
    off = summary(learnt())["error"]["progress"]["worker_steps_per_s"]
    assert lines["steps of all workers a second"].endswith(f"{100 * off:+.1f} %")
    assert lines["time to a loss of 1.125"].endswith("-20.0 %")


def test_a_defect_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("made up")

    monkeypatch.setattr(workflow, "predict", fail)
    monkeypatch.setattr("sys.argv", ["twinstep", "predict", "overlap", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70
    assert "made up" in capsys.readouterr().err
