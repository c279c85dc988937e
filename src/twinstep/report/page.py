"""Page: the frame of every HTML file: one self-contained file that holds plotly.js once and fetches nothing.

A content security policy lets two scripts run, by their hashes, and no other: text of a plan that got past
the escaping would still be inert. Equal contents give equal pages, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from twinstep.report import words
from twinstep.units import format_size

_DRAW = """
(() => {
  "use strict";
  const config = {
    displaylogo: false, showSendToCloud: false, responsive: true,
    modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "autoScale2d"],
  };
  const touch = matchMedia("(pointer: coarse)").matches;  // there, a drag scrolls the page
  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = {gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule")};
    const layout = {
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--quiet")},
      hoverlabel: {bgcolor: colour("--paper"), bordercolor: colour("--rule"), align: "left",
                   font: {color: colour("--ink")}},
      modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("--rule"), activecolor: colour("--quiet")},
      xaxis: axis, yaxis: axis, showlegend: false,
    };
    for (const source of document.querySelectorAll("script[data-chart]")) {
      const figure = JSON.parse(source.textContent);
      figure.layout.template = {layout};
      if (touch) figure.layout.dragmode = false;
      Plotly.react(source.dataset.chart, figure.data, figure.layout, config);
    }
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
"""


def render_page(template: str, *, title: str, **values: Any) -> str:
    """Fill in a template of this folder, which extends page.html.j2 and escapes all that it prints."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bandwidth": words.bandwidth_words,
        "duration": words.duration_words,
        "error": words.error_words,
        "group": words.group_words,
        "share": words.share_words,
        "size": format_size,
        "term": words.term_words,
        "figure_json": _figure_json,
    }
    scripts = [get_plotlyjs(), _DRAW]
    return environment.get_template(template).render(
        title=title,
        words=words,
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - plotly's and ours, with no input in them
        policy=_policy(scripts),
        **values,
    )


def _policy(scripts: list[str]) -> str:
    """Allow the scripts by hash, inline styles, and the pictures that plotly makes for downloads."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _figure_json(figure: Any) -> Markup:
    """Write a figure as JSON with <, > and / escaped, so that nothing in it ends its script element."""
    return Markup(plotly.io.to_json(figure, engine="json"))  # noqa: S704 - escaped by plotly, and tested
