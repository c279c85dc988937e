"""Chakra traces: nodes say what the effects say, their order allows the same overlap, and others can read the files."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.chakra_readers import read_by_chakra, read_by_hand
from tests.chakra_replay import replay
from tests.command_line import Ended, assert_refused

from twinstep.chakra import export_traces, schema
from twinstep.chakra.schema import COMM_TYPES, Node, NodeType
from twinstep.chakra.trace import CommGroups, RankTrace, message_lanes
from twinstep.costs import compute_s, device_costs
from twinstep.effects import Collective, Compute, Effect, Transfer
from twinstep.programs import Groups, Strategy, first_steps, lower
from twinstep.scenario import Scenario, load_scenario

pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install twinstep[chakra]")

HYBRID = """\
workload: {kind: gpt, layers: 4, heads: 4, width: 32, context: 16, batch: 16}
partition: {tensor: 2, pipeline: 2, data: 2, microbatches: 4}
sync: {bucket: 16 KiB}
topology:
  builder: star
  hosts: 8
  device: {peak: 1 TFLOP/s, memory_bandwidth: 100 GB/s, overhead: 1 us}
  link: {bandwidth: 10 Gb/s, latency: 5 us}
run: {compute: emulated, stragglers: [{rank: 5, slowdown: 2.0}]}
"""
DATA = """\
workload: {kind: mlp, hidden: [64, 64, 64], batch: 16}
partition: {data: 4}
sync: {bucket: 8 KiB}
topology: {builder: one_host, devices: 4, device: cpu}
"""
KINDS = {NodeType.COMM_SEND: "send", NodeType.COMM_RECV: "recv"}


def load(text: str, folder: Path, *overrides: str) -> Scenario:
    path = folder / "plan.yaml"
    path.write_text(text)
    return load_scenario(str(path), overrides)


@pytest.fixture(params=[HYBRID, DATA], ids=["hybrid", "data-parallel"])
def scenario(request: pytest.FixtureRequest, tmp_path: Path) -> Scenario:
    return load(request.param, tmp_path)


def traces(programs: Strategy) -> list[tuple[list[Effect], list[Node]]]:
    """Give each rank's effects and nodes; computations take a second."""
    steps = [first_steps(programs.program(rank)) for rank in range(programs.plan.ranks)]
    comm, lanes = CommGroups(programs.groups), message_lanes(steps)
    return [(step, list(RankTrace(rank, comm, lanes, lambda _: 1.0).nodes(step))) for rank, step in enumerate(steps)]


def ancestors(nodes: list[Node]) -> list[set[int]]:
    """Give all that must be done before each node; ids are positions, and what a node depends on comes before it."""
    found: list[set[int]] = []
    for node in nodes:
        found.append(set(node.depends_on).union(*(found[other] for other in node.depends_on)))
    return found


def test_nodes_say_what_the_effects_say(scenario: Scenario) -> None:
    programs = lower(scenario.plan)
    comm = CommGroups(programs.groups)
    by_id = comm.by_id()
    for rank, (effects, nodes) in enumerate(traces(programs)):
        operations = [effect for effect in effects if isinstance(effect, Compute | Collective | Transfer)]
        assert [node.name for node in nodes] == [effect.operation for effect in operations]
        for effect, node in zip(operations, nodes, strict=True):
            said = dict(node.attributes)
            assert said.pop("is_cpu_op") is False
            if isinstance(effect, Compute):
                assert node.type == NodeType.COMP
                assert said == {"num_ops": max(effect.work_flops, 1), "tensor_size": effect.bytes_moved}
            elif isinstance(effect, Collective):
                groups = programs.groups[effect.group]
                assert node.type == NodeType.COMM_COLL
                assert (said["comm_type"], said["comm_size"]) == (COMM_TYPES[effect.kind], effect.size_bytes)
                assert by_id[int(said["pg_name"])] == groups.ranks[groups.row_of(rank)].tolist()
            else:
                assert KINDS[node.type] == effect.kind
                assert said["comm_size"] == effect.size_bytes
                assert said["comm_src" if effect.kind == "send" else "comm_dst"] == rank


def test_counts_of_the_hybrid_plan(tmp_path: Path) -> None:
    """By hand: 4 microbatches, 2 of the 4 blocks a stage, 2 sums a block each way; stage 0 sends 4, receives 4."""
    nodes = traces(lower(load(HYBRID, tmp_path).plan))[0][1]
    found = Counter(node.type for node in nodes)
    assert found[NodeType.COMM_SEND] == found[NodeType.COMM_RECV] == 4
    groups = Counter(int(node.attributes["pg_name"]) for node in nodes if node.type == NodeType.COMM_COLL)
    assert groups[1] >= 4 * 2 * 2 * 2  # tensor group {0, 1}
    assert groups[13] == 1  # the tied embedding, {0, 4}, after 4 + 4 + 4 groups of other kinds


def test_dependencies_exist_and_have_no_cycle(scenario: Scenario) -> None:
    for _, nodes in traces(lower(scenario.plan)):
        assert [node.id for node in nodes] == list(range(len(nodes)))
        assert all(other < node.id for node in nodes for other in node.depends_on)


def test_the_step_ends_when_all_is_done(scenario: Scenario) -> None:
    for _, nodes in traces(lower(scenario.plan)):
        assert nodes[-1].name == "optimizer"
        assert ancestors(nodes)[-1] == set(range(len(nodes) - 1))


def test_computations_take_turns(scenario: Scenario) -> None:
    for _, nodes in traces(lower(scenario.plan)):
        before = ancestors(nodes)
        computations = [node.id for node in nodes if node.type == NodeType.COMP]
        assert all(a in before[b] for a, b in itertools.pairwise(computations))


@pytest.mark.parametrize("overlap", [True, False])
def test_a_bucket_runs_beside_the_backward_pass_where_the_plan_overlaps(overlap: bool, tmp_path: Path) -> None:
    plan = load(DATA, tmp_path, f"sync.overlap={str(overlap).lower()}").plan
    for _, nodes in traces(lower(plan)):
        before = ancestors(nodes)
        first = next(node.id for node in nodes if node.type == NodeType.COMM_COLL)
        later = [node for node in nodes if node.id > first and node.type == NodeType.COMP]
        assert len(later) >= 3
        assert [first in before[node.id] for node in later] == [not overlap] * (len(later) - 1) + [True]
        assert nodes[first - 1].type == NodeType.COMP
        assert first - 1 in nodes[first].depends_on


@pytest.mark.parametrize("seed", range(3))
def test_all_ranks_come_to_the_end_by_the_rules_of_astra_sim(seed: int, scenario: Scenario) -> None:
    programs = lower(scenario.plan)
    left = replay([nodes for _, nodes in traces(programs)], CommGroups(programs.groups).by_id(), seed)
    assert left == [0] * scenario.plan.ranks


def test_messages_pair_up(tmp_path: Path) -> None:
    ends: dict[str, Counter[tuple[Any, ...]]] = {"send": Counter(), "recv": Counter()}
    for _, nodes in traces(lower(load(HYBRID, tmp_path).plan)):
        for node in nodes:
            if node.type in KINDS:
                keys = ("comm_src", "comm_dst", "comm_tag", "comm_size")
                ends[KINDS[node.type]][tuple(node.attributes[key] for key in keys)] += 1
    assert ends["send"] == ends["recv"]
    assert len(ends["send"]) == 8 // 2 * 4 * 2  # pipelines, microbatches, directions
    assert set(ends["send"].values()) == {1}


def test_messages_of_one_pair_on_two_lanes_keep_their_order() -> None:
    """Both ranks send on lanes a and b, and receive in another order; tags tell the messages apart."""
    comm = CommGroups({"pair": Groups("pair", np.array([[3, 7]]))})
    order = {"send": ["a", "b", "a"], "recv": ["b", "a", "a"]}
    tags: dict[str, dict[str, list[Any]]] = {}
    for kind, rank in (("send", 3), ("recv", 7)):
        effects = [Transfer(kind, "pair", 0, 1, 8, lane) for lane in order[kind]]  # type: ignore[arg-type]
        nodes = RankTrace(rank, comm, message_lanes([effects]), None).nodes(effects)
        tags[kind] = {"a": [], "b": []}
        for lane, node in zip(order[kind], nodes, strict=True):
            assert (node.attributes["comm_src"], node.attributes["comm_dst"]) == (3, 7)
            tags[kind][lane].append(node.attributes["comm_tag"])
    assert tags["send"] == tags["recv"]
    assert len({*tags["send"]["a"], *tags["send"]["b"]}) == 3


def test_all_gather_counts_what_a_rank_contributes() -> None:
    comm = CommGroups({"data": Groups("data", np.array([[0, 1, 2, 3]]))})
    effects = [Collective(kind, "data", 4096, "data") for kind in ("all_gather", "reduce_scatter")]  # type: ignore[arg-type]
    nodes = RankTrace(2, comm, (), None).nodes(effects)
    assert [node.attributes["comm_size"] for node in nodes] == [1024, 4096]


# The files.


READERS: dict[str, Callable[[Path], list[Node]]] = {
    "wire format": read_by_hand,
    "chakra": read_by_chakra,
}


def test_kinds_of_collectives_have_chakras_numbers() -> None:
    pb2 = pytest.importorskip("chakra.schema.protobuf.et_def_pb2", reason="it is on GitHub only")
    assert {pb2.CollectiveCommType.Name(number): number for number in COMM_TYPES.values()} == {
        kind.upper(): number for kind, number in COMM_TYPES.items()
    }


@pytest.mark.parametrize("reader", READERS)
def test_files_hold_the_nodes(reader: str, scenario: Scenario, tmp_path: Path) -> None:
    written = export_traces(scenario, tmp_path / "out")
    programs = lower(scenario.plan)
    expected = traces(programs)
    read = [READERS[reader](Path(f"{written.prefix}.{rank}.et")) for rank in range(scenario.plan.ranks)]
    plain = [[(node.id, node.name, node.type, node.depends_on, node.attributes) for node in nodes] for nodes in read]
    assert plain == [[(n.id, n.name, n.type, n.depends_on, n.attributes) for n in nodes] for _, nodes in expected]
    assert written.nodes == sum(map(len, read))
    groups = json.loads((tmp_path / "out" / "comm_group.json").read_text())
    assert {int(number): ranks for number, ranks in groups.items()} == CommGroups(programs.groups).by_id()
    assert "0" not in groups
    names = {f"plan.{rank}.et" for rank in range(scenario.plan.ranks)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"comm_group.json"}


def test_durations_are_those_of_the_devices_rates(tmp_path: Path) -> None:
    """Each is right to a microsecond, their sum to half of one; rank 5 takes twice as long."""
    scenario = load(HYBRID, tmp_path)
    written = export_traces(scenario, tmp_path / "out")
    programs = lower(scenario.plan)
    costs = device_costs(scenario.device_specs[0], None, busy_cores=1)
    for rank in range(scenario.plan.ranks):
        effects = [effect for effect in first_steps(programs.program(rank)) if isinstance(effect, Compute)]
        expected = np.array([compute_s(effect, costs) for effect in effects]) * 1e6 * (2 if rank == 5 else 1)
        nodes = read_by_hand(Path(f"{written.prefix}.{rank}.et"))
        micros = np.array([node.duration_micros for node in nodes if node.type == NodeType.COMP])
        assert np.abs(np.cumsum(micros) - np.cumsum(expected)).max() <= 0.5 + 1e-6
        assert micros.sum() > len(effects)


def test_measured_devices_have_no_durations(tmp_path: Path) -> None:
    written = export_traces(load(DATA, tmp_path), tmp_path / "out")
    nodes = read_by_hand(Path(f"{written.prefix}.0.et"))
    assert {node.duration_micros for node in nodes} == {0}


def test_command(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run_cli("export", "quickstart", "--set", "partition.data=2", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "wrote 2 traces" in ended.err
    assert ended.err.endswith("quickstart.RANK.et\n")
    assert (tmp_path / "out" / "quickstart.1.et").stat().st_size > 100


def test_missing_protobuf_is_answered_with_the_remedy(
    run_cli: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    schema._messages.cache_clear()
    ended = run_cli("export", "quickstart", "--out", tmp_path / "out")
    assert_refused(ended, "writing Chakra traces needs the package protobuf", "pip install twinstep[chakra]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sync", ["method: parameter_server", "method: local_sgd, every: 2"])
def test_what_differs_from_step_to_step_is_refused(sync: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"workload: {{kind: mlp, hidden: [8], batch: 8}}\npartition: {{data: 2}}\nsync: {{{sync}}}\n"
        "topology: {builder: star, hosts: 3, device: {peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s},\n"
        "  link: {bandwidth: 1 Gb/s, latency: 1 us}}\nrun: {compute: emulated}\n"
    )
    assert_refused(run_cli("export", str(path), "--out", str(tmp_path / "traces")), "sync.method", "has no trace")
