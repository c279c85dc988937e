"""What the terminal shows of made-up runs."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from tests.made_up import contents, evil_contents, folded_contents, many_links, silent

from twinstep.report.contents import Contents
from twinstep.report.terminal import show
from twinstep.timeline import Span, Timeline


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


def test_terminal_says_where_ranks_are_slow_in_turn() -> None:
    """Each of three ranks takes 1 s in two steps of three, and 2 s in the third."""
    said = "A step takes as long as its slowest rank"
    spans = [
        Span(rank, step, "step", "step", "step", 2.0 * step, 2.0 * step + (2.0 if step % 3 == rank else 1.0))
        for rank in range(3)
        for step in range(6)
    ]
    shown = contents(measured=False)
    assert shown.prediction
    in_turn = replace(shown.prediction, timeline=Timeline(tuple(spans), ranks=3, warmup_steps=0))
    assert said in printed(replace(shown, prediction=in_turn))
    assert said not in printed(shown)


def test_terminal_says_what_differs_in_structure() -> None:
    text = printed(contents(lost_collective=True))
    assert "Structure differs: step time error" in text
    assert "- only predicted: all_reduce[bucket=1] on lane data" in text


def test_terminal_lets_no_control_character_through() -> None:
    text = printed(contents(scenario="a\x1b[31mb", question="[bold]c[/bold]\x07\ud800"))
    assert r"a\x1b[31mb" in text
    assert r"[bold]c[/bold]\x07\ud800" in text


def test_terminal_shows_the_communication_of_both_sides() -> None:
    lines = printed(contents()).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("Communication"))
    assert lines[first].split() == ["Communication", "ranks", "a", "step", "size", "time", "algbw", "busbw"]
    assert lines[first + 2].split() == (
        ["all_reduce", "2", "2", "1.00", "MiB", "predicted", "1.55", "ms", "5.41", "Gb/s", "5.41", "Gb/s"]
    )
    assert lines[first + 3].split() == (["data", "2", "measured", "1.62", "ms", "5.19", "Gb/s", "5.19", "Gb/s"])
    assert lines[first + 4 : first + 6] == [
        "A step of the mean rank, predicted: 900 us exposed, 2.00 ms hidden.",
        "A step of the mean rank, measured: 1.19 ms exposed, 2.00 ms hidden.",
    ]


def test_terminal_shows_links_of_a_prediction() -> None:
    text = printed(contents(measured=False))
    assert re.search(r"^Busiest links +bytes +utilisation +waiting$", text, re.MULTILINE)
    assert re.search(r"^host0 to switch0 +2\.89 GiB +62\.0 % +4\.00 ms$", text, re.MULTILINE)
    many = printed(many_links(30))
    assert "Busiest 5 of 30 links" in many
    assert re.findall(r"^host(\d+) to switch", many, re.MULTILINE) == ["29", "28", "27", "26", "25"]
    assert "Busiest" not in printed(contents(predicted=False))


def test_terminal_is_silent_where_nobody_communicates() -> None:
    assert not re.search("Communication|Busiest|hidden", printed(silent(contents())))


def test_terminal_shows_an_operation_that_one_side_lacks() -> None:
    text = printed(contents(lost_collective=True, measured_size_bytes=1 << 10))
    assert re.search(r"^all_reduce +2 +2 +1\.00 MiB +predicted +1\.55 ms", text, re.MULTILINE)
    assert re.search(r"^data +- +measured +- +- +-$", text, re.MULTILINE)


def test_terminal_says_whom_a_rank_stands_for() -> None:
    assert re.search(r"^rank 0 \(x 128\) +7\.70 ms\nrank 130 \(x 3\) +7", printed(folded_contents()), re.MULTILINE)


@pytest.mark.parametrize("shown", [contents(), evil_contents(), folded_contents(), many_links(30)])
def test_terminal_fits_80_columns(shown: Contents) -> None:
    assert max(map(len, printed(shown).splitlines())) <= 80
