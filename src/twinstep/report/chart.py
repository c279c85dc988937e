"""Chart: a plotly figure with the words around it, and the colours and sizes that all figures share.

Figures set no font and no axis colour: the page gives them those of its light or dark scheme.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import plotly.graph_objects as go

PREDICTED_COLOUR = "#8fb4d9"
MEASURED_COLOUR = "#41719c"
LINE_COLOURS = ("#41719c", "#c46a2b", "#5b8c3e", "#8a5aa8", "#b0485a", "#7a6a2f")
"""Of lines in one chart, told apart by lightness, too."""
PHASE_COLOURS = {
    "read": "#7b8a99",
    "load": "#b8a27a",
    "forward": "#7fb2dc",
    "backward": "#3f75ad",
    "weight_gradients": "#c2a13f",
    "encode": "#c99bb8",
    "exposed_communication": "#d9683c",
    "decode": "#a3628c",
    "optimizer": "#8d78b8",
    "host_optimizer": "#5e4b8b",
    "communication": "#4f9d86",
}
PASS_SHADES = {
    "forward": ("#b4d4ee", "#6ba3d2"),
    "backward": ("#5087bd", "#24486f"),
    "weight_gradients": ("#dcc67f", "#a98a2c"),
}
"""Of the first and of the last chunk of a rank, where it has several."""
BUBBLE_COLOUR = "rgba(138,146,156,0.16)"
UTILISATION_COLOURS = (
    ("unused", "#8a929c"),
    ("below 25 %", "#6f9fcf"),
    ("25 to 50 %", "#c9a227"),
    ("50 to 75 %", "#dd7733"),
    ("75 % and more", "#c0354b"),
)
MOST_RANKS = 16

_LONGEST_LABEL = 26
_LONGEST_COORDINATES = 34
_ABBREVIATIONS = (("microbatch=", "mb="), ("layer=", "l="), ("pass=", ""))
_TRANSPARENT = "rgba(0,0,0,0)"


@dataclass(frozen=True, slots=True)
class Chart:
    """What the page needs to show one figure."""

    key: str
    """The id of its element; letters only."""
    title: str
    figure: go.Figure
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """Labels and their colours, printed by the page, so that plotly has no legend of its own."""


def label(text: str) -> str:
    """Escape a text for plotly, which renders some HTML tags in labels.

    >>> label("<b>2 & 3</b>")
    '&lt;b&gt;2 &amp; 3&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def _short_label(text: str) -> str:
    """Escape a text for an axis, where a long one has its coordinates abbreviated, or keeps its beginning and its end.

    >>> _short_label("all_reduce[layer=12,microbatch=3,pass=forward]")
    'all_reduce[l=12,mb=3,forward]'
    >>> _short_label("reduce_scatter[bucket=12,layer=12,microbatch=3,pass=backward]")
    'reduce_scatter[b…2,mb=3,backward]'
    """
    longest = _LONGEST_LABEL
    if len(text) > longest and any(name in text for name, _ in _ABBREVIATIONS):
        longest = _LONGEST_COORDINATES
        for name, abbreviation in _ABBREVIATIONS:
            text = text.replace(name, abbreviation)
    if len(text) > longest:
        half = longest // 2 - 1
        text = f"{text[:half]}…{text[-half:]}"
    return label(text)


def style(figure: go.Figure, height_px: int) -> go.Figure:
    """Give a figure the look of the page and its height in pixels; wide as the page, and no frame."""
    return figure.update_layout(
        template=None,
        height=height_px,
        width=None,
        autosize=True,
        hovermode="closest",
        paper_bgcolor=_TRANSPARENT,
        plot_bgcolor=_TRANSPARENT,
    )


def style_names(figure: go.Figure, names: dict[float, str], length: float) -> None:
    """Make the y axes lists of names, from y=0 downwards, that zooming leaves alone."""
    figure.update_yaxes(
        range=[length - 0.5, -0.5],
        tickvals=list(names),
        ticktext=[_short_label(name) for name in names.values()],
        ticklen=6,
        tickcolor=_TRANSPARENT,
        fixedrange=True,
        showgrid=False,
        automargin=True,
    )
