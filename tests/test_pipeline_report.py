"""What reports say of pipelines and of kinds of groups: charts, tables, summary; and only where there are any."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.chromium import EXECUTABLE, Page
from tests.made_up import EVIL, contents
from tests.pipelined import GROUPS, PIPELINE, pipelined_contents, two_stages, without_pipeline

from twinstep.bubbles import Bubbles, Pipeline
from twinstep.communication import communication
from twinstep.report.chart import Chart
from twinstep.report.contents import Contents, MemoryCourse
from twinstep.report.figures import charts
from twinstep.report.html import render_html
from twinstep.report.summary import summary, summary_text
from twinstep.report.terminal import show
from twinstep.scenario import load_scenario
from twinstep.workflow import predict


def printed(shown: Contents) -> str:
    text = io.StringIO()
    show(shown, Console(file=text, width=80))
    return text.getvalue()


def bars(chart: Chart, name: str) -> list[tuple[float, float, float]]:
    """Give row, beginning and end, in ms, of the bars of a kind."""
    traces = [trace for trace in chart.figure.data if trace.name == name]
    return [(y, base, base + x) for trace in traces for y, base, x in zip(trace.y, trace.base, trace.x, strict=True)]


def test_the_staircase_has_a_bar_a_pass_and_a_bubble_a_wait() -> None:
    drawn = charts(pipelined_contents(measured=False))["pipeline"]
    assert bars(drawn, "forward") == [(0, 0, 1000), (0, 1000, 2000), (1, 1500, 2500), (1, 4500, 5500)]
    assert bars(drawn, "backward") == [(0, 5000, 7000), (0, 8000, 10000), (1, 2500, 4500), (1, 5500, 7500)]
    assert bars(drawn, "bubble") == [(0, 2000, 5000), (0, 7000, 8000), (1, 0, 1500), (1, 7500, 10000)]
    assert bars(drawn, "exposed communication") == [(0, 10000, 11000), (1, 10000, 11000)]
    assert bars(drawn, "optimizer") == [(0, 11000, 12000), (1, 11000, 12000)]
    assert [trace.text for trace in drawn.figure.data if trace.name == "forward"] == [("0", "1", "0", "1")]


def test_a_strip_is_as_long_as_the_waits_within_a_pass() -> None:
    ((_, begin, end),) = bars(charts(pipelined_contents(measured=False))["pipeline"], "waits within passes")
    assert (begin, end) == (5500, 6000)


def test_both_sides_stand_on_one_axis_with_the_bubbles_of_their_ranks() -> None:
    figure = charts(pipelined_contents())["pipeline"].figure
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range == (0, pytest.approx(13200))
    words = [annotation.text for annotation in figure.layout.annotations]
    assert words == [
        *["<b>predicted: step 0, 12.0 s</b>", "33.3 %", "33.3 %"],
        *["<b>measured: step 0, 13.2 s</b>", "33.3 %", "33.3 %"],
    ]


def test_later_chunks_are_darker() -> None:
    shown = replace(pipelined_contents(measured=False), pipeline=Pipeline(PIPELINE.ranks, ((0, 1), (2, 3))))
    drawn = charts(shown)["pipeline"]
    backward = next(trace for trace in drawn.figure.data if trace.name == "backward")
    assert len(set(backward.marker.color)) == 2
    assert "chunk" in drawn.caption
    assert "chunk" not in charts(pipelined_contents())["pipeline"].caption


def test_long_pipelines_are_sampled_from_the_first_rank_to_the_last() -> None:
    lived = two_stages()
    ranks = range(40)
    spans = tuple(
        span._replace(rank=rank, step=span.step) for rank in ranks for span in lived.spans if span.rank == rank % 2
    )
    shown = pipelined_contents(measured=False)
    assert shown.prediction
    prediction = replace(shown.prediction, timeline=replace(lived, spans=spans, ranks=40))
    pipeline = Pipeline(tuple(ranks), tuple((2 * (rank % 2),) for rank in ranks))
    drawn = charts(replace(shown, ranks=40, prediction=prediction, pipeline=pipeline))["pipeline"]
    names = drawn.figure.layout.yaxis.ticktext
    assert (len(names), names[0], names[-1]) == (16, "rank 0", "rank 39")
    assert "16 of its 40 ranks" in drawn.caption


def test_a_timeline_without_passes_has_no_staircase() -> None:
    shown = pipelined_contents(measured=False)
    assert shown.prediction
    spans = tuple(span._replace(operation=span.operation.partition("[")[0]) for span in two_stages().spans)
    silent = replace(shown.prediction, timeline=replace(two_stages(), spans=spans))
    assert "pipeline" not in charts(replace(shown, prediction=silent))


def test_kinds_of_groups_have_a_bar_a_side() -> None:
    figure = charts(pipelined_contents())["groups"].figure
    assert figure.layout.yaxis.ticktext == (
        *("pipeline, predicted", "measured", "tied embedding, predicted", "measured", "tensor, predicted", "measured"),
    )
    exposed, hidden = figure.data
    assert exposed.x == pytest.approx((2750, 3025, 2250, 2475, 250, 275))
    assert hidden.x == pytest.approx((500, 550, 0, 0, 0, 0))


@pytest.mark.parametrize("shown", [contents(), without_pipeline(pipelined_contents())])
def test_other_plans_have_neither(shown: Contents) -> None:
    assert not {"pipeline", "groups"} & set(charts(shown))
    page, text = render_html(shown), printed(shown)
    for words in ("Communication by kind of group", "<h2>Pipeline</h2>"):
        assert words not in page
    for words in ("By kind of group", "Bubble"):
        assert words not in text


def test_the_terminal_says_how_large_the_bubble_is_beside_the_closed_form() -> None:
    text = " ".join(printed(pipelined_contents()).split())
    assert "Bubble of the pipeline, predicted: 33.3 % of a step." in text
    assert "Bubble of the pipeline, measured: 33.3 % of a step." in text
    assert "The schedule alone, with equal stages and communication that takes no time: 20.0 %." in text
    assert "pipeline 2.75 s 500 ms 3.02 s 550 ms" in text


def test_the_terminal_names_the_ranks_that_idle_least_and_most() -> None:
    shown = pipelined_contents(measured=False)
    assert shown.prediction
    unequal = replace(shown.prediction, bubbles=Bubbles({0: 0.2, 3: 0.1, 5: 0.3}, closed_form=None))
    text = " ".join(printed(replace(shown, prediction=unequal)).split())
    assert "predicted: 20.0 % of a step (rank 3: 10.0 %, rank 5: 30.0 %)." in text
    assert "schedule alone" not in text


def test_the_summary_has_bubbles_and_groups_of_both_sides() -> None:
    facts = json.loads(summary_text(pipelined_contents()))
    for side, pace in (("predicted", 1.0), ("measured", 1.1)):
        assert facts[side]["bubble"] == {
            "by_rank": {"0": pytest.approx(1 / 3), "1": pytest.approx(1 / 3)},
            "mean": pytest.approx(1 / 3),
            "closed_form": 0.2,
        }
        groups = facts[side]["communication"]["groups"]
        assert [each["group"] for each in groups] == ["pipeline", "embedding", "tensor"]
        assert list(groups[0]) == ["group", "exposed_s", "hidden_s"]
        assert [groups[0]["exposed_s"], groups[0]["hidden_s"]] == pytest.approx([2.75 * pace, 0.5 * pace])


def test_the_summary_has_no_bubble_without_a_pipeline() -> None:
    facts = summary(contents())
    assert facts["predicted"]["bubble"] is None
    assert facts["measured"]["bubble"] is None


def test_hostile_names_stay_text() -> None:
    page = render_html(hostile())
    assert EVIL not in page
    assert "<script>alert" not in page


def with_memory(device_bytes: int | None, moments: int = 3) -> Contents:
    """Give rank 1's course in step 0, which lasts 12 s: it holds 1, 2, 3 ... MiB of activations beside 1 MiB."""
    shown = pipelined_contents(measured=False)
    assert shown.prediction
    course = tuple(
        (
            12.0 * index / moments,
            {"activations": (index + 1) << 20, "parameters": 1 << 20, "gradients": 0, "total": (index + 2) << 20},
        )
        for index in range(moments)
    )
    return replace(shown, prediction=replace(shown.prediction, memory=MemoryCourse(1, course, device_bytes)))


def test_memory_is_stacked_by_part_from_moment_to_moment() -> None:
    drawn = charts(with_memory(None))["memory"]
    assert [(area.name, area.y) for area in drawn.figure.data] == [
        ("parameters", (1, 1, 1, 1)),
        ("activations", (1, 2, 3, 3)),
    ]
    assert drawn.figure.data[0].x == (0, 4000, 8000, 12000)
    assert {area.line.shape for area in drawn.figure.data} == {"hv"}
    assert "rank 1" in drawn.caption
    assert "4.00 MiB" in drawn.caption
    assert not drawn.figure.layout.shapes


@pytest.mark.parametrize(("device_bytes", "lines"), [(5 << 20, 1), (2 << 20, 1), (13 << 20, 0)])
def test_the_devices_memory_is_a_line_unless_it_is_far_above(device_bytes: int, lines: int) -> None:
    drawn = charts(with_memory(device_bytes))["memory"]
    assert [line.y0 for line in drawn.figure.layout.shapes] == [device_bytes >> 20] * lines
    assert f"{device_bytes >> 20}.00 MiB" in drawn.caption or f"{device_bytes >> 20}.0 MiB" in drawn.caption
    assert any(name == "the device's memory" for name, _ in drawn.legend) == bool(lines)


def test_a_long_course_keeps_its_peak() -> None:
    area = charts(with_memory(None, moments=5000))["memory"].figure.data[-1]
    assert len(area.y) <= 1201
    assert max(area.y) == pytest.approx(5000 / 1024, abs=1e-3)


def test_without_a_course_there_is_no_chart_of_memory() -> None:
    assert "memory" not in charts(pipelined_contents())


def test_predictions_of_hybrid_plans_follow_the_memory_of_the_fullest_rank() -> None:
    device = "{peak: 400 GFLOP/s, memory_bandwidth: 100 GB/s, memory: 1 GiB}"
    prediction = predict(load_scenario("pipeline-p2p", [f"topology.device={device}", "run.backend=local"]), None)
    assert prediction.memory
    assert prediction.memory.device_bytes == 1 << 30
    peak = max(parts["total"] for _, parts in prediction.memory.moments)
    assert peak == prediction.peak_memory_bytes["total"]
    assert prediction.memory.rank == 0


def test_predictions_of_other_plans_do_not() -> None:
    assert predict(load_scenario("star-8", ["run.backend=local"]), None).memory is None


def hostile() -> Contents:
    shown = pipelined_contents(measured=False)
    assert shown.prediction
    renamed = two_stages(rename=EVIL)
    found = communication(renamed, {EVIL + group: size for group, size in GROUPS.items()})
    return replace(shown, prediction=replace(shown.prediction, timeline=renamed, communication=found))


@pytest.mark.chromium
@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on the path")
@pytest.mark.parametrize("width_px", [1400, 390])
def test_browsers_draw_both_charts_and_fetch_nothing(tmp_path: Path, width_px: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(pipelined_contents()), encoding="utf-8")
    with Page() as page:
        page.open(path, width_px=width_px)
        assert page.requests == [path.as_uri()]
        assert page.complaints == []
        passes = "document.querySelectorAll('#pipeline .bars .point path').length"
        assert page.evaluate(passes) == 2 * (8 + 4 + 2 + 2 + 1)
        assert page.evaluate("document.querySelectorAll('#groups .bars .point path').length") > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
