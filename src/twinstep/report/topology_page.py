"""The page that `twinstep topology show` writes: the picture of a topology and the list of what is in it."""

from __future__ import annotations

from twinstep.report.figures import topology_chart
from twinstep.report.page import render_page
from twinstep.report.topology_view import topology_figure, topology_rows
from twinstep.topologies import Topology


def topology_page(name: str, topology: Topology) -> str:
    """Draw a topology as one self-contained HTML file."""
    chart = topology_chart(topology_figure(topology))
    return render_page("topology.html.j2", title=name, chart=chart, rows=topology_rows(topology))
