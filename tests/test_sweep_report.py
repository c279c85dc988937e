"""The page and the terminal view of a sweep: everything is told, nothing of a user's text is active."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.chromium import EXECUTABLE, Page

from twinstep.report.sweep_files import sweep_text, write_sweep
from twinstep.report.sweep_page import sweep_chart, sweep_page
from twinstep.report.sweep_terminal import show_sweep
from twinstep.sweep import Agreement, Crossover, Point, Side, Sweep, Swept, positions, settings_at

EVIL = "</script><script>alert(1)</script><b>"


def side(step_time_s: float) -> Side:
    return Side(step_time_s, 10.0, 1234.0, "host0 to switch0", 2048.0)


def made_up(*, measured: bool = True, names: tuple[Any, ...] = ("all_reduce", "gossip"), x: Any = (2, 4, 8)) -> Swept:
    """Make a sweep in which the first line is faster at the first two values."""
    axes = Sweep({"partition.data": list(x), "sync.method": list(names)}).axes
    points = []
    for at, line in positions(axes):
        step_s = (0.01, 0.02, 0.08)[at] if line == 0 else 0.04
        point = Point((at, line), settings_at(axes, (at, line)), side(step_s))
        points.append(point if not measured else Point(*point_fields(point), side(step_s / 1.25)))
    points[-1] = Point(points[-1].position, points[-1].settings, problem=f"too many {EVIL}")
    crossover = Crossover(str(names[0]), str(names[1]), "4", "5", None)
    agreement = Agreement(5, 0.25, 0.25, 1.0, 0.9) if measured else None
    return Swept("made-up", f"Who wins {EVIL}?", axes, tuple(points), (crossover,), (crossover,), agreement)


def point_fields(point: Point) -> tuple[Any, ...]:
    return point.position, point.settings, point.predicted


def shown(swept: Swept, width: int = 100) -> str:
    file = io.StringIO()
    show_sweep(swept, Console(file=file, width=width))
    return file.getvalue()


def test_terminal_tells_everything() -> None:
    text = shown(made_up())
    assert "all_reduce is faster up to partition.data 4, gossip from 5 on." in text
    assert "Measured: all_reduce is faster up to" in text
    assert "5 points measured: mean absolute error 25.0 %" in text
    assert "a busy machine" in text
    assert "8.00 ms" in text
    assert "+25.0 %" in text
    assert "2.00 KiB" in text
    assert "partition.data 8, sync.method gossip: too many" in text


def test_terminal_has_no_columns_for_what_was_not_measured() -> None:
    text = shown(made_up(measured=False))
    assert "measured" not in text
    assert "error" not in text


def test_chart_has_a_line_a_combination_and_both_sides() -> None:
    chart = sweep_chart(made_up())
    assert [(trace.name, trace.mode) for trace in chart.figure.data] == [
        ("all_reduce", "lines+markers"),
        ("all_reduce", "markers"),
        ("gossip", "lines+markers"),
        ("gossip", "markers"),
    ]
    assert list(chart.figure.data[0].y) == [10, 20, 80]
    assert list(chart.figure.data[2].y) == [40, 40, None]
    assert (chart.figure.layout.xaxis.type, chart.figure.layout.yaxis.type) == ("log", "log")
    assert chart.figure.layout.xaxis.ticktext == ("2", "4", "8")


def test_words_on_the_axis_are_in_the_order_of_the_file() -> None:
    chart = sweep_chart(made_up(names=("a", "b"), x=("ring", "star", "torus")))
    assert list(chart.figure.data[0].x) == [0, 1, 2]
    assert chart.figure.data[0].mode == "markers"


def test_page_is_inert_and_the_same_twice() -> None:
    swept = made_up(names=(EVIL, "gossip"))
    page = sweep_page(swept)
    assert EVIL not in page
    assert "alert(1)" in page
    assert page == sweep_page(swept)


def test_json_is_whole(tmp_path: Path) -> None:
    write_sweep(tmp_path, made_up())
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["points"][0]["step_time_error"] == pytest.approx(0.25)
    assert found["points"][-1]["predicted"] is None
    assert found["crossovers"]["predicted"][0]["in_words"].startswith("all_reduce is faster")
    assert found["agreement"]["spearman"] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "sweep.json"]
    assert sweep_text(made_up()) == (tmp_path / "sweep.json").read_text()


@pytest.mark.chromium
@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on the path")
@pytest.mark.parametrize("width_px", [1280, 390])
def test_page_draws_in_a_browser(tmp_path: Path, width_px: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(sweep_page(made_up(names=(EVIL, "gossip"))), encoding="utf-8")
    with Page() as page:
        page.open(path, width_px=width_px)
        assert page.requests == [path.as_uri()]
        assert page.complaints == []
        assert page.evaluate("document.querySelectorAll('#sweep .point').length") >= 10
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
