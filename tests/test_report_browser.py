"""The page in a real browser: charts are drawn, nothing is fetched, nothing complains, all fits the width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go
import pytest
from tests.chromium import EXECUTABLE, Page
from tests.made_up import contents, evil_contents, folded_contents, many_links

from twinstep.report.contents import Contents
from twinstep.report.figures import charts
from twinstep.report.html import render_html

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on the path"),
]

TOPOLOGY = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], mode="lines+markers", text=["host 0", "host 1"]))
DRAWN = "#{key} .mlayer :is(.point path, path.point, path.js-line, .textpoint)"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page() as browser:
        yield browser


def write(folder: Path, shown: Contents) -> Path:
    path = folder / "report.html"
    path.write_text(render_html(shown), encoding="utf-8")
    return path


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(contents(2, topology_figure=TOPOLOGY), id="two ranks"),
        pytest.param(contents(10), id="ten ranks"),
        pytest.param(contents(measured=False), id="predicted alone"),
        pytest.param(contents(predicted=False), id="measured alone"),
        pytest.param(evil_contents(), id="hostile text"),
        pytest.param(folded_contents(), id="folded ranks"),
        pytest.param(many_links(30), id="many links"),
    ],
)
def test_page_draws_everything_and_fetches_nothing(page: Page, tmp_path: Path, shown: Contents, width_px: int) -> None:
    path = write(tmp_path, shown)
    page.open(path, width_px=width_px)
    assert page.requests == [path.as_uri()]
    assert page.complaints == []
    for key in charts(shown):
        marks = DRAWN.format(key=key)
        assert page.evaluate(f"document.querySelectorAll({marks!r}).length") > 0, key
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert page.evaluate("document.querySelectorAll('img, iframe, svg a, script[src]').length") == 0


def test_every_span_is_a_bar(page: Page, tmp_path: Path) -> None:
    shown = contents(10)
    page.open(write(tmp_path, shown), width_px=1280)
    assert shown.prediction
    spans = [span for span in shown.prediction.timeline.spans if span.phase != "step"]
    steps = shown.prediction.timeline.warmup_steps + len(shown.prediction.timeline.steps())
    bars = page.evaluate("document.querySelectorAll('#timelines .bars path').length")
    assert bars == 2 * 2 * len(spans) / steps


def test_page_follows_the_dark_scheme(page: Page, tmp_path: Path) -> None:
    path = write(tmp_path, contents())
    colours = []
    for dark in (False, True):
        page.open(path, width_px=1280, dark=dark)
        colours.append(page.evaluate("getComputedStyle(document.querySelector('#phases .xtick text')).fill"))
    assert colours[0] != colours[1]


def test_a_chart_can_be_saved_as_a_picture(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, contents()), width_px=1280)
    picture = "Plotly.toImage('phases', {format: 'png', width: 400, height: 300})"
    assert page.evaluate(picture).startswith("data:image/png;base64,")
    assert page.complaints == []


def test_a_foreign_script_and_a_foreign_picture_are_refused(page: Page, tmp_path: Path) -> None:
    path = write(tmp_path, contents())
    foreign = "<script>document.title = 'owned'</script><img src='http://example.invalid/x.png'></body>"
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", foreign), encoding="utf-8")
    page.open(path, width_px=1280)
    assert page.evaluate("document.title") != "owned"
    assert len([text for text in page.complaints if "Content Security Policy" in text]) == 2


def test_every_link_has_a_bar_as_long_as_its_utilisation(page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path, many_links(10)), width_px=1280)
    lengths = page.evaluate(
        "[...document.querySelectorAll('#links .point path')].map(bar => bar.getBoundingClientRect().width)"
    )
    assert lengths == pytest.approx([lengths[-1] * percent for percent in range(10, 0, -1)], abs=1.0)


def test_narrow_bars_of_a_timeline_keep_their_width(page: Page, tmp_path: Path) -> None:
    """Plotly widens opaque bars to a pixel; on the compute lane the last one drawn would hide its neighbours."""
    page.open(write(tmp_path, contents(10)), width_px=390)
    fills = page.evaluate(
        "[...new Set([...document.querySelectorAll('#timelines .bars path')].map(bar => bar.style.fillOpacity))]"
    )
    assert sorted(fills) == ["0.999", "1"]
