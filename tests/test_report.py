"""What the outputs say of made-up runs, and that no text of a user becomes markup."""

from __future__ import annotations

import io
import json
import re
import statistics
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console
from tests.made_up import EVIL, contents, evil_contents

from twinstep.report.contents import Contents
from twinstep.report.figures import charts
from twinstep.report.html import render_html
from twinstep.report.summary import summary, summary_text
from twinstep.report.terminal import show
from twinstep.report.terms import chosen_ranks

SUMMARY_KEYS = {
    "": ["scenario", "ranks", "tolerance", "verdict", "predicted", "measured", "structure", "error"],
    "predicted": ["step_time_s", "phases_s", "peak_memory_bytes", "simulation_wall_s", "events", "communication"],
    "measured": [
        "step_time_s",
        "step_time_iqr_s",
        "steps",
        "phases_s",
        "other_load_cores",
        "final_loss",
        "communication",
    ],
    "structure": ["match", "differences"],
    "error": ["step_time", "phases", "blame"],
}


def test_summary_has_exactly_the_documented_keys() -> None:
    facts = summary(contents())
    for part, keys in SUMMARY_KEYS.items():
        assert list(facts[part] if part else facts) == keys
    assert list(facts["error"]["blame"][0]) == ["term", "share", "difference_s"]


def test_summary_is_null_where_nothing_was_run() -> None:
    predicted, measured = summary(contents(measured=False)), summary(contents(predicted=False))
    assert [predicted[key] for key in ("verdict", "measured", "structure", "error")] == [None] * 4
    assert [measured[key] for key in ("verdict", "predicted", "structure", "error")] == [None] * 4


def test_summary_adds_up() -> None:
    facts = summary(contents())
    assert facts["predicted"]["step_time_s"] == pytest.approx(7.7e-3)
    assert sum(facts["predicted"]["phases_s"].values()) == pytest.approx(7.7e-3)
    assert facts["measured"]["steps"] == 21
    assert facts["error"]["step_time"] == pytest.approx(7.7e-3 / facts["measured"]["step_time_s"] - 1)
    assert sum(blame["share"] for blame in facts["error"]["blame"]) == pytest.approx(1)
    assert facts["verdict"] == "within"


@pytest.mark.parametrize("losses", [(), (1.0, float("nan")), (1.0, float("inf"))])
def test_summary_has_no_loss_where_there_is_none_or_it_diverged(losses: tuple[float, ...]) -> None:
    text = summary_text(contents(losses=losses))
    assert json.loads(text, parse_constant=pytest.fail)["measured"]["final_loss"] is None
    assert text == summary_text(contents(losses=losses))


def test_contents_need_both_sides_for_a_comparison() -> None:
    with pytest.raises(ValueError, match="a prediction or a measurement"):
        contents(predicted=False, measured=False)


def printed(shown: Contents) -> str:
    console = Console(file=io.StringIO(), width=80, no_color=True, force_terminal=False)
    show(shown, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_says_the_verdict_first() -> None:
    text = printed(contents())
    lines = text.splitlines()
    assert lines[3] == "Within tolerance: step time error -8.8 % (tolerance 10 %)"
    assert lines[4] == "predicted 7.70 ms, measured 8.45 ms (IQR 391 us, 21 steps)"
    assert max(map(len, lines)) <= 80
    assert re.search(r"^backward +4\.00 ms +4\.32 ms +218 us +21 +-7\.3 % +40 %$", text, re.MULTILINE)
    assert "40 %: backward is predicted 316 us too short." in text
    assert "\x1b" not in text


def test_terminal_shows_one_side_alone() -> None:
    predicted, measured = printed(contents(measured=False)), printed(contents(predicted=False))
    assert "Predicted step time: 7.70 ms" in predicted
    assert not re.search("measured +IQR|error", predicted)
    assert "Measured step time: 8.45 ms" in measured
    assert not re.search(" predicted |error", measured)


def test_terminal_collapses_many_ranks() -> None:
    text = printed(contents(12))
    assert "Slowest and fastest of 12 ranks" in text
    assert len(re.findall(r"^rank \d", text, re.MULTILINE)) == 2


def test_terminal_says_what_differs_in_structure() -> None:
    text = printed(contents(lost_collective=True))
    assert "Structure differs: step time error" in text
    assert "- only predicted: all_reduce[bucket=1] on lane data" in text


def test_terminal_lets_no_control_character_through() -> None:
    text = printed(contents(scenario="a\x1b[31mb", question="[bold]c[/bold]\x07\ud800"))
    assert r"a\x1b[31mb" in text
    assert r"[bold]c[/bold]\x07\ud800" in text


class Tags(HTMLParser):
    """Collects the elements of a page and every attribute that could fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_page_escapes_every_text_of_the_user() -> None:
    page = render_html(evil_contents()).replace(get_plotlyjs(), "")
    tags, plain = Tags(page), Tags(render_html(contents()).replace(get_plotlyjs(), ""))
    for name in ("script", "img", "a", "b", "iframe"):
        assert tags.names.count(name) == plain.names.count(name)
    for text in (EVIL, "<img", "onerror=alert(2)>", "<script>alert"):
        assert text not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_labels_of_charts_are_escaped() -> None:
    for chart in charts(evil_contents()).values():
        texts = json.dumps(chart.figure.to_plotly_json(), default=list)
        assert not re.search(r"<(?!/?b>|br>|/?extra>)", texts), chart.key


def test_page_is_self_contained() -> None:
    page = render_html(contents())
    assert page.count("plotly.js v") == get_plotlyjs().count("plotly.js v") == 1
    own = page.replace(get_plotlyjs(), "")
    assert Tags(own).links == ["data:,"]
    assert not re.search(r"https?:|url\(|@import|//[a-z]", own)
    assert own.index("Content-Security-Policy") < own.index("<script")


def test_page_is_the_same_for_equal_contents() -> None:
    assert render_html(contents()) == render_html(contents())


def test_page_depends_on_what_was_run() -> None:
    keys = {
        side: list(charts(shown))
        for side, shown in (
            ("both", contents(topology_figure=go.Figure(go.Scatter(x=[0], y=[0])))),
            ("predicted", contents(measured=False)),
            ("measured", contents(predicted=False)),
        )
    }
    terms = ["timelines", "phases", "collectives", "ranks"]
    assert keys == {
        "both": [*terms, "steps", "loss", "topology"],
        "predicted": terms,
        "measured": [*terms, "steps", "loss"],
    }


def test_timelines_say_the_time_of_the_slowest_rank() -> None:
    titles = [note.text for note in charts(contents())["timelines"].figure.layout.annotations]
    assert titles == ["<b>predicted: step 4, 7.70 ms</b>", "<b>measured: step 18, 8.45 ms</b>"]


def test_many_ranks_are_sampled_and_the_page_says_so() -> None:
    drawn = charts(contents(40))
    assert "16 of 40 ranks" in drawn["timelines"].caption
    assert "16 of 40 ranks" in drawn["ranks"].caption
    ranks = chosen_ranks(contents(40), 16)
    assert len(set(ranks)) == 16


def test_chosen_ranks_hold_the_slowest_and_the_fastest() -> None:
    made_up = contents(predicted=False, ranks=40)
    assert made_up.measurement
    times_s = made_up.measurement.timeline.ranks_by_step_s()
    medians_s = {rank: statistics.median(times) for rank, times in times_s.items()}
    chosen = chosen_ranks(made_up, 3)
    assert max(medians_s.values()) == max(medians_s[rank] for rank in chosen)
    assert min(medians_s.values()) == min(medians_s[rank] for rank in chosen)
