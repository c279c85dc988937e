"""report.html: everything that a report shows, on one page."""

from __future__ import annotations

from twinstep.report import engines, terms, traffic
from twinstep.report.contents import Contents
from twinstep.report.figures import charts
from twinstep.report.memory_ranks_chart import shown_rows
from twinstep.report.memory_rows import memory_parts
from twinstep.report.page import render_page


def render_html(contents: Contents) -> str:
    """Write the report as the text of one self-contained HTML file, the same for equal contents."""
    return render_page(
        "report.html.j2",
        title=contents.scenario,
        contents=contents,
        charts=charts(contents),
        tables={
            "phases": terms.phase_terms(contents),
            "collectives": terms.longest(terms.collective_terms(contents), terms.MOST_ROWS),
            "ranks": terms.rank_terms(contents),
        },
        sides=traffic.sides(contents),
        exchanges=traffic.exchanges(contents),
        engines=engines,
        groups=traffic.group_rows(contents),
        memory=shown_rows(contents),
        memory_parts=memory_parts,
    )
