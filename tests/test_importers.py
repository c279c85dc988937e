"""Topologies in formats of others: what becomes of nodes and links, which way GPUs take, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from typer.testing import CliRunner

from twinstep.cli import app
from twinstep.errors import InputError
from twinstep.scenario import load_scenario, plan_yaml
from twinstep.topologies import Topology, read_topology

DATA = Path(__file__).parent / "data"
DGX, PCIE, NCCL = (DATA / name for name in ("dgx-a100.topo", "pcie-two-sockets.txt", "two-hosts-nccl.xml"))
LINK = {"bandwidth": "100 Gb/s", "latency": "1 us"}


def small(kind: type[nx.Graph[Any]] = nx.Graph) -> nx.Graph[Any]:
    """Give two hosts with a device each, at one switch."""
    graph = kind()
    for host in ("a", "b"):
        graph.add_node(host, kind="host", cores=8)
        rates = {"peak": "10 TFLOP/s", "memory_bandwidth": "1 TB/s", "overhead": "5 us"}
        graph.add_node(f"{host}/gpu", kind="device", host=host, **({"device": "cuda"} if host == "a" else rates))
    graph.add_node("switch", kind="switch", colour="red")
    for one, other, link in (
        ("a", "a/gpu", {"bandwidth_bytes_per_s": 24e9, "latency_s": 1e-6}),
        ("b", "b/gpu", {"bandwidth_bytes_per_s": 24_000_000_000, "latency": "1 us"}),
        ("a", "switch", LINK),
        ("b", "switch", LINK),
    ):
        graph.add_edge(one, other, **link)
        if graph.is_directed():
            graph.add_edge(other, one, **link)
    return graph


def node_link(graph: nx.Graph[Any]) -> str:
    return json.dumps(nx.node_link_data(graph, edges="edges"))


def graphml(graph: nx.Graph[Any]) -> str:
    return "\n".join(nx.generate_graphml(graph))


def imported(text: str | bytes, name: str, folder: Path) -> Topology:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_topology(str(path))


def middle(topology: Topology, source: int, target: int) -> list[str]:
    path = topology.path(topology.devices[source], topology.devices[target])
    return [link.target for link in path[:-1]]


class TestGraphs:
    @pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
    @pytest.mark.parametrize(("suffix", "write"), [("graphml", graphml), ("json", node_link)])
    def test_what_networkx_writes_is_read(
        self, suffix: str, write: Callable[[nx.Graph[Any]], str], kind: type[nx.Graph[Any]], tmp_path: Path
    ) -> None:
        found = imported(write(small(kind)), f"small.{suffix}", tmp_path)
        assert found.hosts == ("a", "b")
        assert found.devices == ("a/gpu", "b/gpu")
        assert found.cores_of("a") == 8
        assert found.device_profile("a/gpu") == "cuda"
        assert found.device_profile("b/gpu").peak == 10e12  # type: ignore[union-attr]
        assert middle(found, 0, 1) == ["a", "switch", "b"]
        assert [link.bandwidth_bytes_per_s / 1e9 for link in found.path("a/gpu", "b/gpu")] == [24, 12.5, 12.5, 24]
        assert sum(link.latency_s for link in found.path("b/gpu", "a/gpu")) == pytest.approx(4e-6)

    def test_the_old_key_of_edges_is_read_too(self, tmp_path: Path) -> None:
        data = json.loads(node_link(small()))
        data = {"nodes": data["nodes"], "links": data["edges"]}
        assert imported(json.dumps(data), "old.json", tmp_path).switches == ("switch",)

    def test_a_directed_edge_leads_one_way(self, tmp_path: Path) -> None:
        graph = small(nx.DiGraph)
        graph.remove_edge("switch", "a")
        with pytest.raises(InputError, match="no path leads from device"):
            imported(node_link(graph), "one-way.json", tmp_path)

    @pytest.mark.parametrize(("suffix", "write"), [("graphml", graphml), ("json", node_link)])
    def test_a_graph_from_elsewhere_is_told_what_it_lacks(
        self, suffix: str, write: Callable[[nx.Graph[Any]], str], tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=r"zoo\.\w+: no node has the attribute `kind`") as caught:
            imported(write(nx.path_graph(3)), f"zoo.{suffix}", tmp_path)
        assert all(word in caught.value.remedy for word in ("`kind`", "`host`", "`device`", "`bandwidth`", "`latency`"))

    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            (lambda g: g.nodes["switch"].pop("kind"), "node 'switch' has no `kind`"),
            (lambda g: g.nodes["switch"].update(kind="swich"), "node 'switch' is of kind 'swich'"),
            (lambda g: g.nodes["a/gpu"].pop("host"), "device 'a/gpu' has no `host`"),
            (lambda g: g.nodes["a/gpu"].update(host="c"), "there is no host 'c'"),
            (lambda g: g.nodes["a/gpu"].pop("device"), "device 'a/gpu' has no `device`"),
            (lambda g: g.nodes["b/gpu"].update(device="cuda"), "both `device` and rates"),
            (lambda g: g.nodes["a"].update(cores=-1), "nodes[0].cores: -1"),
            (lambda g: g.edges["a", "switch"].pop("bandwidth"), "edge 'a' - 'switch': has no `bandwidth`"),
            (
                lambda g: g.edges["a", "switch"].update(bandwidth="100"),
                "edge 'a' - 'switch': bandwidth: '100': not a quan",
            ),
            (lambda g: g.edges["a", "switch"].update(latency="-1 us"), "latency: '-1 us': must be finite"),
            (lambda g: g.edges["a", "a/gpu"].update(latency_s=float("inf")), "inf"),
            (lambda g: g.edges["a", "a/gpu"].update(latency_s=-1.0), "'-1.0 s': must be finite and not negative"),
            (lambda g: g.edges["a", "a/gpu"].update(latency="1 us"), "both `latency` and `latency_s`"),
        ],
    )
    def test_bad_attributes_are_refused_with_node_or_edge(
        self, spoil: Callable[[Any], Any], problem: str, tmp_path: Path
    ) -> None:
        graph = small()
        spoil(graph)
        for suffix, text in (("graphml", graphml(graph)), ("json", node_link(graph).replace("Infinity", "1e999"))):
            with pytest.raises(InputError) as caught:
                imported(text, f"bad.{suffix}", tmp_path)
            assert problem in str(caught.value)
            assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"garbage{suffix}", bytes(range(256))) for suffix in (".graphml", ".json", ".topo", ".xml")),
        *((f"empty{suffix}", b"") for suffix in (".graphml", ".json", ".txt", ".xml")),
        ("deep.json", b"[" * 20_000),
        ("deep.json", b'{"nodes": [{"id": ' + b"[" * 20_000 + b"]" * 20_000 + b'}], "edges": []}'),
        *(
            ("deep.json", b'{"nodes": [{"id": ' + b"[" * n + b"]" * n + b'}], "edges": []}')
            for n in range(800, 1000, 20)
        ),
        ("surrogate.json", b'{"nodes": [{"id": "\\ud800", "kind": "host"}], "edges": []}'),
        (
            "parallel.graphml",
            b'<graphml><graph edgedefault="directed"><node id="a"/><node id="b"/>'
            b'<edge source="a" target="b"/><edge source="a" target="b"/></graph></graphml>',
        ),
        ("deep.xml", b"<system>" + b"<pci>" * 20_000),
        ("deep.graphml", b"<graphml>" + b"<graph>" * 20_000),
        ("root.xml", b"<machine/>"),
        ("root.graphml", b"<system/>"),
        ("root.json", b"[1, 2]"),
        ("no-gpu.xml", b"<system/>"),
        ("wide.topo", b"GPU0 " * 100_000),
        ("nan.json", b'{"nodes": [NaN], "edges": []}'),
        ("digits.json", b'{"nodes": [' + b"9" * 5000 + b'], "edges": []}'),
        ("twice.json", b'{"nodes": [{"id": 1}, {"id": "1"}], "edges": []}'),
        ("unknown.json", b'{"nodes": [{"id": 1}], "edges": [{"source": 1, "target": 2}]}'),
        ("large.topo", b" " * (16 * 2**20 + 1)),
        ("twice.graphml", b'<graphml><graph edgedefault="directed"><node id="a"/><node id="a"/></graph></graphml>'),
        ("ends.graphml", b'<graphml><graph edgedefault="directed"><edge source="a" target="b"/></graph></graphml>'),
        ("doctype.graphml", b'<!DOCTYPE g [<!ENTITY a "b">]><graphml/>'),
    ],
)
def test_what_is_no_topology_is_refused_with_file_and_remedy(name: str, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        imported(content, name, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert str(caught.value).encode()  # it can be printed
    assert caught.value.remedy


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.xml").mkdir()
    for name in ("absent.graphml", "folder.xml", "nul\0.json"):
        with pytest.raises(InputError) as caught:
            read_topology(str(tmp_path / name))
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["small.graphml", "small.json", "dgx.topo", "pcie.txt", "nccl.xml"])
def test_a_mutated_file_is_a_topology_or_an_input_error(name: str, tmp_path: Path) -> None:
    sources = {"dgx.topo": DGX, "pcie.txt": PCIE, "nccl.xml": NCCL}
    if name in sources:
        content = sources[name].read_bytes()
    else:
        content = (graphml if name.endswith("graphml") else node_link)(small()).encode()
    rng = random.Random(name)
    refused = 0
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.choice(b"\0\xff\t\n <>/\"'=[]{}:,-0123456789aNX")
        if rng.random() < 0.2:
            del mutated[rng.randrange(len(mutated)) :]
        try:
            assert isinstance(imported(bytes(mutated), name, tmp_path), Topology)
        except InputError as error:
            refused += 1
            assert error.remedy  # noqa: PT017 (either outcome is right)
    assert refused > 20


def test_a_scenario_can_name_such_a_file_and_its_plan_is_complete(tmp_path: Path) -> None:
    (tmp_path / "small.graphml").write_text(graphml(small()))
    (tmp_path / "scenario.yaml").write_text(
        "workload: {kind: mlp, hidden: [8], batch: 4}\n"
        "partition: {data: 2}\ntopology: {file: small.graphml}\nrun: {compute: emulated}\n"
    )
    scenario = load_scenario(str(tmp_path / "scenario.yaml"))
    assert scenario.topology.devices == ("a/gpu", "b/gpu")
    (tmp_path / "plan.yaml").write_text(plan_yaml(scenario.plan))
    assert load_scenario(str(tmp_path / "plan.yaml")).topology.links == scenario.topology.links


def test_topology_show_takes_such_a_file(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = CliRunner().invoke(app, ["topology", "show", str(NCCL), "--out", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "system0" in shown.output
    assert page.exists()
