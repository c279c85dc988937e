"""What the outputs say of made-up runs, and that no text of a user becomes markup."""

from __future__ import annotations

import json
import re
import statistics
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from tests.made_up import EVIL, LINKS, contents, evil_contents, folded_contents, many_links, silent

from twinstep.report.figures import charts
from twinstep.report.html import render_html
from twinstep.report.summary import summary, summary_text
from twinstep.report.terms import chosen_ranks

SUMMARY_KEYS = {
    "": [
        "scenario",
        "ranks",
        "tolerance",
        "cautions",
        "verdict",
        "predicted",
        "measured",
        "structure",
        "error",
        "by_programs",
    ],
    "predicted": [
        "step_time_s",
        "phases_s",
        "peak_memory_bytes",
        "memory_by_rank",
        "simulation_wall_s",
        "events",
        "communication",
        "algorithms",
        "progress",
        "lost_ranks",
        "bubble",
    ],
    "measured": [
        "step_time_s",
        "step_time_iqr_s",
        "steps",
        "phases_s",
        "other_load_cores",
        "cores_busy_share",
        "final_loss",
        "memory_by_rank",
        "communication",
        "progress",
        "lost_ranks",
        "links",
        "bubble",
    ],
    "structure": ["match", "compared", "differences"],
    "error": [
        "step_time",
        "core_speed",
        "step_time_at_core_speed",
        "phases",
        "blame",
        "collectives",
        "links",
        "progress",
        "memory_by_rank",
    ],
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


@pytest.mark.slow
def test_page_depends_on_what_was_run() -> None:
    keys = {
        side: list(charts(shown))
        for side, shown in (
            ("both", contents(topology_figure=go.Figure(go.Scatter(x=[0], y=[0])))),
            ("predicted", contents(measured=False)),
            ("measured", contents(predicted=False)),
        )
    }
    terms = ["timelines", "phases", "collectives", "ranks", "communication"]
    assert keys == {
        "both": [*terms, "links", "steps", "loss", "topology"],
        "predicted": [*terms, "links"],
        "measured": [*terms, "steps", "loss"],
    }
    assert not {"communication", "links"} & set(charts(silent(contents())))


def test_timelines_say_the_time_of_the_slowest_rank() -> None:
    titles = [note.text for note in charts(contents())["timelines"].figure.layout.annotations]
    assert titles == ["<b>predicted: step 4, 7.70 ms</b>", "<b>measured: step 18, 8.45 ms</b>"]


@pytest.mark.slow
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


def rows_of_traffic(page: str) -> list[list[str]]:
    """Give the cells of the table of the communication."""
    section = page[page.index('<section id="traffic">') :]
    rows = re.findall(r"<tr>(.*?)</tr>", section[: section.index("</section>")], re.DOTALL)
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row.split("</td>")] for row in rows[1:]]


def test_page_shows_each_communication_with_both_sides() -> None:
    two = "predicted measured"
    rates = "5.41 Gb/s 5.19 Gb/s"
    assert rows_of_traffic(render_html(contents())) == [
        ["all_reduce data", two, "1.55 ms 1.62 ms", rates, rates, "1.00 MiB", "2 2", "2", ""]
    ]
    one = ["all_reduce data", "1.55 ms", "5.41 Gb/s", "5.41 Gb/s", "1.00 MiB", "2", "2", ""]
    assert rows_of_traffic(render_html(contents(measured=False))) == [one]
    assert "<dd>900 us exposed, 2.00 ms hidden a step</dd>" in render_html(contents())
    assert 'id="traffic"' not in render_html(silent(contents()))


def test_exposed_and_hidden_are_stacked_predicted_first() -> None:
    chart = charts(contents())["communication"]
    assert [(bar.name, list(bar.y)) for bar in chart.figure.data] == [("exposed", [0, 1]), ("hidden", [0, 1])]
    assert [bar.x[0] for bar in chart.figure.data] == pytest.approx([0.9, 2.0])
    assert chart.figure.layout.yaxis.ticktext == ("predicted", "measured")


def test_links_are_bars_the_busiest_first() -> None:
    chart = charts(contents())["links"]
    (bars,) = chart.figure.data
    assert list(bars.x) == [62.0, 62.0]
    assert chart.figure.layout.yaxis.ticktext == ("host0 to switch0", "switch0 to host0")
    assert bars.hovertext[0] == "<b>host0 to switch0</b><br>62.0 % used<br>2.89 GiB in the run<br>4.00 ms of waiting"
    assert chart.caption.startswith(f"All {len(LINKS)} links")
    many = charts(many_links(30))["links"]
    assert len(many.figure.data[0].x) == 24
    assert many.figure.data[0].x[0] == 30.0
    assert "24 of 30 links that carried anything; the others used 1.0 % to 6.0 %." in many.caption
    assert "over all 24 steps" in many.caption


def test_folded_ranks_say_how_many_they_stand_for() -> None:
    drawn = charts(folded_contents())
    assert drawn["ranks"].figure.layout.yaxis.ticktext == ("rank 0 (x 128)", "rank 130 (x 3)", "rank 131")
    names = drawn["timelines"].figure.layout.yaxis.ticktext
    assert names == ("rank 0 (x 128)", "data", "rank 130 (x 3)", "data", "rank 131", "data")
    for chart in (drawn["timelines"], drawn["ranks"]):
        assert chart.caption.startswith("Of ranks that live through the same times one is shown")
    assert "<td>rank 0 (x 128)</td>" in render_html(folded_contents())
