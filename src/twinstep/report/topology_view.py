"""A topology as a picture and as a table.

The picture is radial, so that it fits a wide page and a narrow one: hosts and storage on a circle, devices outside
it, NICs and switches inside, each tier nearer to the centre. The wider a link is drawn, the more it can carry; where
it is known how much of that was used, its colour tells.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from rich import box
from rich.table import Table
from rich.text import Text

from twinstep.report.chart import UTILISATION_COLOURS, label
from twinstep.report.topology_layout import Positions, nodes_of, positions_of
from twinstep.topologies import DeviceSpec, Link, Topology
from twinstep.topologies.graph import NodeKind
from twinstep.units import format_duration, format_rate

_MOST_DEVICES_DRAWN = 64
_MOST_NAMES_DRAWN = 8
_FEW_LINKS = 60
_MANY_LINKS = 200
_HEIGHT_PX = 480
_CIRCLE_PX = 900
"""Most of the circle of hosts, which their marks share."""
_LINK_COLOUR = UTILISATION_COLOURS[0][1]
_WIDTHS_PX = (1.5, 2.5, 3.5, 5.0)

_LOOKS: Mapping[NodeKind, tuple[str, str, int]] = {
    "host": ("square", "#41719c", 15),
    "device": ("circle", "#4f9d86", 11),
    "nic": ("triangle-up", "#8f6bb3", 10),
    "switch": ("diamond", "#d9683c", 16),
    "storage": ("pentagon", "#b08a2e", 15),
}
_PLURALS: Mapping[NodeKind, str] = {
    "host": "hosts",
    "device": "devices",
    "nic": "NICs",
    "switch": "switches",
    "storage": "storage",
}

_INWARDS: Sequence[NodeKind] = ("device", "host", "storage", "nic", "switch")
_PARTS_OF_HOSTS: Sequence[NodeKind] = ("device", "nic")

Utilisation = Mapping[tuple[str, str], float]
"""The part of its bandwidth that a link used, by source and target; the two of a half-duplex link share one."""


class _Cable(NamedTuple):
    """What joins two nodes: one direction, or both."""

    forth: Link
    back: Link | None

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return max(link.bandwidth_bytes_per_s for link in self if link)

    @property
    def words(self) -> str:
        """What it carries in each of its directions, e.g. `10.0 Gb/s, 1.00 us`."""
        if self.back is None or self.forth[2:] == self.back[2:]:
            return _link_words(self.forth)
        return f"{_link_words(self.forth)} there; {_link_words(self.back)} back"

    @property
    def arrow(self) -> str:
        """Its directions."""
        return "->" if self.back is None else "<->"

    def used(self, utilisation: Utilisation) -> tuple[float, ...]:
        """Give the parts that were used, one a direction that has its own bandwidth."""
        parts = tuple(utilisation.get(link[:2], 0.0) for link in self if link)
        return (max(parts),) if self.forth.shared else parts


def topology_figure(topology: Topology, utilisation: Utilisation | None = None) -> go.Figure:
    """Draw a topology; above 64 devices, hosts stand for theirs. `utilisation` colours the links.

    Equal topologies give equal figures. Pointing at a node or the middle of a link tells what it is.
    """
    with_devices = len(topology.devices) <= _MOST_DEVICES_DRAWN
    positions = positions_of(topology, with_devices=with_devices)
    figure = go.Figure()
    cables = [cable for cable in _cables(topology) if positions[cable.forth.source] != positions[cable.forth.target]]
    used = [cable.used(utilisation) if utilisation else () for cable in cables]
    for trace in (*_link_traces(cables, positions, used), _hover_trace(cables, positions, used)):
        figure.add_trace(trace)
    for kind in _INWARDS:
        if nodes_of(topology, kind) and (with_devices or kind not in _PARTS_OF_HOSTS):
            figure.add_trace(_node_trace(topology, kind, positions))
    reach = 1.1 * max(1.0, *(abs(coordinate) for place in positions.values() for coordinate in place))
    axis = {"visible": False, "range": [-reach, reach], "constrain": "domain"}
    figure.update_xaxes(axis, scaleanchor="y")
    figure.update_yaxes(axis)
    return figure.update_layout(
        template=None,
        height=_HEIGHT_PX,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 0},
        hovermode="closest",
        dragmode=False,
    )


def topology_table(topology: Topology) -> Table:
    """List a topology's nodes and links; those that are equal share a line with their count."""
    table = Table("part", "count", "names", "each", box=box.SIMPLE_HEAD, show_edge=False)
    table.columns[1].justify = "right"
    for row in topology_rows(topology):
        table.add_row(*(Text(cell) for cell in row))
    return table


def topology_rows(topology: Topology) -> list[tuple[str, str, str, str]]:
    """List a topology's nodes and links: what they are, how many are equal, their names, what each is."""
    lines = _node_lines(topology) | _link_lines(topology)
    return [
        (part, str(len(names)), names[0] if len(names) == 1 else f"{names[0]} ...", each)
        for (part, each), names in lines.items()
    ]


def _node_lines(topology: Topology) -> dict[tuple[str, str], list[str]]:
    """Give the names of equal nodes by what they are and by what each is."""
    lines = defaultdict(list)
    for kind in _LOOKS:
        for node in nodes_of(topology, kind):
            lines[_PLURALS[kind], _node_words(topology, kind, node)].append(node)
    return lines


def _link_lines(topology: Topology) -> dict[tuple[str, str], list[str]]:
    """Give the names of equal links by what they join and by what each carries."""
    lines = defaultdict(list)
    for cable in _cables(topology):
        source, target = cable.forth[:2]
        part = f"{_kind(topology, source)} {cable.arrow} {_kind(topology, target)}"
        lines[part, cable.words].append(f"{source} {cable.arrow} {target}")
    return lines


def _node_words(topology: Topology, kind: NodeKind, node: str) -> str:
    if kind == "device":
        return _device_words(topology.device_profile(node))
    if kind != "host":
        return ""
    cores = topology.cores_of(node)
    return "calibrated cores" if cores is None else f"{cores} cores"


def _device_words(profile: DeviceSpec) -> str:
    if isinstance(profile, str):
        return profile
    rates = f"{format_rate(profile.peak, 'FLOP/s')}, {format_rate(profile.memory_bandwidth, 'B/s')}"
    return rates if profile.overhead is None else f"{rates}, {format_duration(profile.overhead)} a kernel"


def _link_words(link: Link) -> str:
    """Give bandwidth, in bits a second as networks state it, latency, and whether the two directions share it."""
    words = f"{format_rate(8 * link.bandwidth_bytes_per_s, 'b/s')}, {format_duration(link.latency_s)}"
    return f"{words}, half duplex" if link.shared else words


def _cables(topology: Topology) -> list[_Cable]:
    """Pair the two directions of each link, from device to host and from host to switch."""
    directed = {link[:2]: link for link in topology.links}
    cables: dict[frozenset[str], _Cable] = {}
    for (source, target), link in directed.items():
        back = directed.get((target, source))
        outwards = _INWARDS.index(_kind(topology, target)) < _INWARDS.index(_kind(topology, source))
        cable = _Cable(back, link) if back and outwards else _Cable(link, back)
        cables.setdefault(frozenset((source, target)), cable)
    return list(cables.values())


def _kind(topology: Topology, node: str) -> NodeKind:
    kind: NodeKind = topology.graph.nodes[node]["kind"]
    return kind


def _node_trace(topology: Topology, kind: NodeKind, positions: Positions) -> go.Scatter:
    names = nodes_of(topology, kind)
    symbol, colour, size = _LOOKS[kind]
    devices = Counter(topology.host_of(device) for device in topology.devices)
    hover = []
    for name in names:
        words = [f"{kind} {name}", _node_words(topology, kind, name)]
        words += [f"devices: {devices[name]}"] if kind == "host" else []
        hover.append("<br>".join(label(word) for word in words if word))
    named = len(names) <= _MOST_NAMES_DRAWN
    return go.Scatter(
        name=_PLURALS[kind],
        mode="markers+text" if named else "markers",
        x=[positions[name][0] for name in names],
        y=[positions[name][1] for name in names],
        text=[label(name.rpartition("/")[2]) for name in names] if named else None,
        textposition=[_beside(*positions[name]) for name in names],
        textfont={"size": 11},
        cliponaxis=False,
        hovertext=hover,
        hoverinfo="text",
        marker={
            "symbol": symbol,
            "color": colour,
            "size": size if named else max(3, min(size * 0.6, _CIRCLE_PX / len(names))),
        },
    )


def _beside(x: float, y: float) -> str:
    """Give the place of a name beside its node, where the radial links are not."""
    if x == y == 0:
        return "top right"
    return "top center" if abs(x) > abs(y) else "middle right"


def _link_traces(cables: Sequence[_Cable], positions: Positions, used: Sequence[tuple[float, ...]]) -> list[go.Scatter]:
    """Draw the links as lines, a trace for each colour, width and dash; the more they were used, the later."""
    rates = sorted({cable.bandwidth_bytes_per_s for cable in cables})
    widths = {rate: _WIDTHS_PX[index * len(_WIDTHS_PX) // len(rates)] for index, rate in enumerate(rates)}
    slimmer = 1 if len(cables) <= _FEW_LINKS else 0.5
    looks: dict[tuple[int, float, str], list[_Cable]] = defaultdict(list)
    for cable, parts in zip(cables, used, strict=True):
        width = slimmer * widths[cable.bandwidth_bytes_per_s]
        looks[_level(max(parts, default=0.0)), width, "solid" if cable.back else "dash"].append(cable)
    return [
        go.Scatter(
            mode="lines",
            x=[x for cable in group for x in (*(positions[end][0] for end in cable.forth[:2]), None)],
            y=[y for cable in group for y in (*(positions[end][1] for end in cable.forth[:2]), None)],
            line={"color": UTILISATION_COLOURS[level][1], "width": width, "dash": dash},
            opacity=1 if len(cables) <= _MANY_LINKS else 0.25,
            hoverinfo="skip",
            showlegend=False,
        )
        for (level, width, dash), group in sorted(looks.items())
    ]


def _level(part: float) -> int:
    """Give the place of a utilisation in UTILISATION_COLOURS.

    >>> [_level(part) for part in (0.0, 0.001, 0.25, 0.74, 1.0)]
    [0, 1, 2, 3, 4]
    """
    return min(4, 1 + int(4 * part)) if part > 0 else 0


def _hover_trace(cables: Sequence[_Cable], positions: Positions, used: Sequence[tuple[float, ...]]) -> go.Scatter:
    """Put a point that tells about the link into the middle of each: lines cannot be pointed at."""
    ends = [[positions[end] for end in cable.forth[:2]] for cable in cables]
    return go.Scatter(
        mode="markers",
        x=[(one[0] + other[0]) / 2 for one, other in ends],
        y=[(one[1] + other[1]) / 2 for one, other in ends],
        hovertext=[
            f"{label(f'{cable.forth.source} {cable.arrow} {cable.forth.target}')}<br>{label(cable.words)}"
            + _used_words(parts)
            for cable, parts in zip(cables, used, strict=True)
        ],
        hoverinfo="text",
        marker={"color": _LINK_COLOUR, "size": 5 if len(cables) <= _FEW_LINKS else 2},
        opacity=1 if len(cables) <= _MANY_LINKS else 0,
        showlegend=False,
    )


def _used_words(parts: tuple[float, ...]) -> str:
    """Say how much was used, of both directions where they differ.

    >>> _used_words((0.5, 0.5)), _used_words((0.5, 0.1)), _used_words(())
    ('<br>50 % used', '<br>50 % used there, 10 % back', '')
    """
    shares = [f"{100 * part:.0f} %" for part in parts]
    if len(set(shares)) == 2:
        return f"<br>{shares[0]} used there, {shares[1]} back"
    return f"<br>{shares[0]} used" if shares else ""
