"""A topology as a picture and as a table."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from twinstep.report.chart import UTILISATION_COLOURS
from twinstep.report.topology_layout import positions_of
from twinstep.report.topology_view import topology_figure, topology_table
from twinstep.topologies import Topology, TopologySpec, build, read_topology, shipped

SPEC: TypeAdapter[Any] = TypeAdapter(TopologySpec)
LINK = {"bandwidth": "10 Gb/s", "latency": "1 us"}


def topology(**spec: Any) -> Topology:
    return build(SPEC.validate_python({"device": "cpu", **spec}))


def printed(found: Topology, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(topology_table(found))
    return capture.get()


def names_of_traces(found: Topology) -> dict[str, int]:
    return {trace.name: len(trace.x) for trace in topology_figure(found).data if trace.name}


@pytest.mark.parametrize("name", shipped())
def test_equal_topologies_give_equal_pictures(name: str) -> None:
    found = read_topology(name)
    assert topology_figure(found).to_json() == topology_figure(read_topology(name)).to_json()
    kinds = {"host": "hosts", "device": "devices", "nic": "NICs", "switch": "switches", "storage": "storage"}
    assert names_of_traces(found) == Counter(kinds[kind] for _, kind in found.graph.nodes(data="kind"))


@pytest.mark.parametrize("name", shipped())
def test_no_two_nodes_share_a_place(name: str) -> None:
    found = read_topology(name)
    positions = positions_of(found, with_devices=True)
    assert positions.keys() == set(found.graph)
    assert len(set(positions.values())) == len(positions)


def test_two_switches_that_join_the_same_hosts_are_drawn_apart() -> None:
    nodes = [{"kind": "host", "name": name} for name in ("a", "b")]
    nodes += [{"kind": "device", "name": f"{name}0", "host": name, "device": "cpu"} for name in ("a", "b")]
    nodes += [{"kind": "switch", "name": name} for name in ("s", "t", "alone")]
    links = [{"source": host, "target": switch, **LINK} for host in "ab" for switch in "st"]
    spec = {"builder": "graph", "nodes": nodes, "links": links}
    positions = positions_of(build(SPEC.validate_python(spec)), with_devices=True)
    assert len(set(positions.values())) == len(positions) == 7


def test_more_than_64_devices_are_drawn_as_their_hosts() -> None:
    assert names_of_traces(topology(builder="ring", hosts=8, devices_per_host=8, link=LINK))["devices"] == 64
    large = topology(builder="star", hosts=1024, devices_per_host=4, link=LINK)
    begin_s = time.process_time()  # of this process alone: others may be busy, too
    figure = topology_figure(large)
    assert time.process_time() - begin_s < 2
    assert [trace.name for trace in figure.data if trace.name] == ["hosts", "switches"]
    assert "host host7<br>calibrated cores<br>devices: 4" in figure.data[2].hovertext


def test_a_link_tells_its_rate_each_way() -> None:
    figure = topology_figure(topology(builder="star", hosts=2, link=LINK))
    (hover,) = (trace for trace in figure.data if trace.mode == "markers" and trace.name is None)
    assert "host1 &lt;-&gt; switch0<br>10.0 Gb/s, 1.00 us" in hover.hovertext
    assert "host1/device0 &lt;-&gt; host1<br>100 Gb/s, 1.00 us" in hover.hovertext


EVIL = "<b>[red]evil</b>"


def evil(duplex: str) -> Topology:
    nodes: list[dict[str, Any]] = [{"kind": "host", "name": EVIL, "cores": 2}, {"kind": "host", "name": "h"}]
    nodes += [
        {"kind": "device", "name": f"d{i}", "host": node["name"], "device": "cpu"} for i, node in enumerate(nodes)
    ]
    links: list[dict[str, Any]] = [{"source": EVIL, "target": "h", **LINK, "duplex": duplex}]
    if duplex == "one_way":
        links.append({"source": "h", "target": EVIL, "bandwidth": "1 Gb/s", "latency": "2 us", "duplex": duplex})
    spec = {"builder": "graph", "nodes": nodes, "links": links}
    return build(SPEC.validate_python(spec))


def test_names_are_no_markup() -> None:
    found = evil("full")
    for trace in topology_figure(found).data:
        for text in (*(trace.text or ()), *(trace.hovertext or ())):
            assert "<b>" not in text
    assert f"{EVIL} <-> h" in printed(found, width=120)


def test_the_table_counts_what_is_equal() -> None:
    lines = printed(read_topology("star-4x10G")).splitlines()
    assert max(map(len, lines)) <= 80
    cells = [line.split(maxsplit=2) for line in lines[2:5]]
    assert [cell[:2] for cell in cells] == [["hosts", "4"], ["devices", "4"], ["switches", "1"]]
    assert "host <-> switch       4   host0 <-> switch0 ...         10.0 Gb/s, 5.00 us" in lines[6]


def test_two_unlike_directions_are_told_apart() -> None:
    assert "10.0 Gb/s, 1.00 us there; 1.00 Gb/s, 2.00 us back" in printed(evil("one_way"), width=140)


def test_devices_are_told_by_their_rates() -> None:
    assert "100 TFLOP/s, 1.00 TB/s, 5.00 us a kernel" in printed(read_topology("two-tier-4x4"), width=120)


def test_used_links_have_the_colour_of_their_utilisation() -> None:
    found = topology(builder="star", hosts=2, link=LINK)
    figure = topology_figure(found, {("host0", "switch0"): 0.8, ("switch0", "host0"): 0.1})
    lines = [(trace.line.color, len(trace.x) // 3) for trace in figure.data if trace.mode == "lines"]
    colours = dict(UTILISATION_COLOURS)
    assert lines == [(colours["unused"], 1), (colours["unused"], 2), (colours["75 % and more"], 1)]
    (hover,) = (trace for trace in figure.data if trace.mode == "markers" and trace.name is None)
    assert "host0 &lt;-&gt; switch0<br>10.0 Gb/s, 1.00 us<br>80 % used there, 10 % back" in hover.hovertext
    assert "host1 &lt;-&gt; switch0<br>10.0 Gb/s, 1.00 us<br>0 % used" in hover.hovertext
