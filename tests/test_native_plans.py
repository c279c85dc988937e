"""Which plans torch's own wrappers run, what is said of the others, and how what they did is noted and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from pydantic import ValidationError
from tests.command_line import Ended
from tests.made_up import contents
from torch.testing._internal.distributed.fake_pg import FakeStore

from twinstep.compare import compare, exchange_differences
from twinstep.exec.board import Board
from twinstep.exec.native.mesh import device_mesh, dimensions, replica_mesh
from twinstep.exec.native.recorder import Recorder
from twinstep.native import unshared_by_torch
from twinstep.partition import Dimension, Partition
from twinstep.plan import Plan
from twinstep.programs.mesh import mesh_groups
from twinstep.report.engines import engine_rows, engines_words
from twinstep.report.html import render_html
from twinstep.report.summary import summary
from twinstep.report.words import structure_words
from twinstep.scenario import Scenario
from twinstep.timeline import Span, Timeline
from twinstep.topologies import load
from twinstep.workflow import by_programs

GPT = {"kind": "gpt", "layers": 2, "heads": 2, "width": 32, "context": 16, "batch": 8}
MLP = {"kind": "mlp", "hidden": [32], "batch": 8}


def plan_of(**changes: Any) -> Plan:
    data: dict[str, Any] = {
        "workload": GPT,
        "partition": {"data": 2},
        "topology": {"builder": "one_host", "devices": 2, "device": "cpu"},
    }
    run = {"engine": "native"} | changes.pop("run", {})
    return Plan.model_validate(data | changes | {"run": run})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload": {"kind": "linear_regression"}}, "workload.kind gpt or mlp, not linear_regression"),
        ({"run": {"compute": "emulated"}}, "set run.compute to real, or run.engine to program"),
        ({"sync": {"method": "local_sgd"}}, "sync.method all_reduce, not local_sgd"),
        ({"sync": {"compression": {"kind": "fp16"}}}, "set sync.compression.kind to none"),
        ({"sync": {"overlap": False}}, "sync.overlap true"),
        ({"run": {"stragglers": [{"rank": 1, "slowdown": 2.0}]}}, "leave run.stragglers out"),
        ({"run": {"warmup": 1}}, "run.warmup of 2 or more, not 1"),
    ],
)
def test_what_torch_cannot_do_is_refused_with_a_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan_of(**changes)


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ({"data": 2, "recompute": "selective"}, "set partition.recompute to full or none"),
        ({"data": 2, "tensor": 2, "sharding": "optimizer"}, "set partition.sharding to gradients or parameters"),
        (
            {"data": 4, "sharding": "optimizer", "sharding_copies": 2},
            "set partition.sharding to gradients or parameters, or partition.sharding_copies to 1",
        ),
        ({"pipeline": 2}, "not 1: set partition.microbatches to 2"),
        ({"pipeline": 2, "data": 2, "microbatches": 2, "schedule": "zero_bubble"}, "partition.sharding to parameters"),
        ({"pipeline": 2, "context": 2, "microbatches": 2, "schedule": "zero_bubble"}, "DistributedDataParallel"),
    ],
)
def test_what_torch_does_not_do_is_predicted_only(partition: dict[str, Any], message: str) -> None:
    assert message in plan_of(partition=partition).predicted_only


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
def test_sharing_among_data_parallel_ranks_is_executed(sharding: str) -> None:
    partition = {"data": 2, "sharding": sharding, "microbatches": 2}
    assert plan_of(partition=partition).predicted_only == ""
    assert "set run.engine to native" in plan_of(partition=partition, run={"engine": "program"}).predicted_only


def test_a_perceptron_is_trained_natively_too() -> None:
    assert plan_of(workload=MLP).predicted_only == ""


def test_check_names_the_remedy(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "workload: {kind: gpt, layers: 2, heads: 2, width: 32, context: 16, batch: 8}\npartition: {tensor: 2}\n"
        "topology: {builder: one_host, devices: 2, device: cpu}\n"
    )
    assert "set run.engine to native or run.compute to emulated" in " ".join(run_cli("check", path).out.split())


def span(kind: str, size_bytes: int, group: str = "data", step: int = 2, lane: str = "data") -> Span:
    return Span(0, step, lane, f"{kind}[bucket=0]", "communication", 0.0, 1.0, size_bytes, group)


def timeline(*spans: Span) -> Timeline:
    steps = [Span(0, step, "step", "step", "step", 0.0, 1.0) for step in range(4)]
    return Timeline((*steps, *spans), ranks=1, warmup_steps=2)


def test_exchanges_are_equal_whatever_their_order_lanes_and_names() -> None:
    one = span("all_reduce", 8), span("all_reduce", 16), span("send activations", 4, "pipeline", lane="activations")
    other = span("send message", 4, "pipeline"), span("all_reduce", 16), span("all_reduce", 8)
    assert exchange_differences(timeline(*one), timeline(*other)) == ()


@pytest.mark.parametrize("extra", [span("all_gather", 4096), span("all_reduce", 16), span("all_reduce", 8, "tensor")])
def test_an_extra_exchange_is_named_with_its_kind_bytes_and_group(extra: Span) -> None:
    usual = timeline(span("all_reduce", 8))
    (line,) = exchange_differences(usual, timeline(span("all_reduce", 8), extra))
    kind = extra.operation.partition("[")[0]
    assert line.startswith(f"only measured: {kind}, {extra.size_bytes} B in group {extra.group!r}: 1 times, on ranks 0")
    (line,) = exchange_differences(timeline(span("all_reduce", 8), extra), usual)
    assert line.startswith("only predicted")


def test_what_torch_exchanges_in_the_warm_up_is_not_compared() -> None:
    assert exchange_differences(timeline(), timeline(span("broadcast", 8, step=1))) == ()


def test_a_shift_is_a_message_to_each_side() -> None:
    messages = span("send context", 4, "context 1", lane="context"), span("recv context", 4, "context 1")
    shift = span("all_to_all", 4, "context 1")
    assert exchange_differences(timeline(*messages), timeline(shift)) == ()
    assert exchange_differences(timeline(messages[0]), timeline(shift)) != ()
    experts = span("all_to_all", 4, "expert")
    assert exchange_differences(timeline(*messages), timeline(experts)) != ()


def test_the_report_says_that_names_are_not_compared() -> None:
    same = timeline(span("all_reduce", 8))
    matched = compare(same, same, tolerance=0.1, of_wrappers=True)
    assert "as often, as many bytes, in the same groups" in structure_words(matched)
    differing = compare(same, timeline(), tolerance=0.1, of_wrappers=True)
    assert differing.verdict == "outside"
    assert "order and names are torch's own" in structure_words(differing)


class Ticks:
    """A clock that goes on by one with every look."""

    def __init__(self) -> None:
        self._ticks = 0

    def now(self) -> int:
        self._ticks += 1
        return self._ticks

    def ns(self, moment: int) -> int:
        return moment


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(Ticks(), Board(tmp_path / "board", 1).seat(0))


def test_a_wait_interrupts_what_is_computed(recorder: Recorder) -> None:
    recorder.begin_step(0)
    recorder.start("forward", 0)
    begun = recorder.begin("all_gather", 8, "data")
    assert begun is not None
    with recorder.waiting(begun):
        recorder.complete(begun)
    recorder.end_step()
    lane = sorted((record[4], record[5], record[2]) for record in recorder.records() if record[1] == "compute")
    wait = "wait[all_gather[group=data,number=0]]"
    assert [operation for _, _, operation in lane] == ["forward[layer=0]", wait, "forward[layer=0]"]
    assert all(earlier[1] < later[0] for earlier, later in pairwise(lane))


def test_what_is_under_way_when_nothing_is_left_to_compute_has_been_waited_for(recorder: Recorder) -> None:
    recorder.begin_step(0)
    recorder.start("backward", 0)
    begun = recorder.begin("all_reduce", 8, "data")
    assert begun is not None
    recorder.end_of_graph()
    recorder.complete(begun)
    recorder.end_of_backward()
    recorder.end_step()
    (wait,) = [record for record in recorder.records() if record[3] == "exposed_communication"]
    assert wait[2] == "wait[all_reduce[group=data,number=0]]"
    assert wait[5] == begun.end


def test_operations_are_numbered_in_their_groups_and_steps(recorder: Recorder) -> None:
    assert recorder.begin("all_reduce", 8, "data") is None
    names = []
    for step in range(2):
        recorder.begin_step(step)
        for group in ("data 1", "data 1", "tensor"):
            begun = recorder.begin("all_reduce", 8, group)
            assert begun is not None
            names.append(begun.operation)
        recorder.end_step()
    once = [f"all_reduce[group={place}]" for place in ("data,number=0", "data,number=1", "tensor,number=0")]
    assert names == once * 2


def test_the_mesh_follows_the_plans_order() -> None:
    partition = Partition(tensor=2, data=4, pipeline=2, order=("data", "pipeline", "tensor", "context"))
    assert dimensions(partition) == {"tensor": 2, "pipeline": 2, "data": 4}
    groups = mesh_groups(partition, ties_ends=False)
    assert sorted(groups["data"].ranks.tolist()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert groups["tensor"].ranks[0].tolist() == [0, 8]


def groups_of_torch(partition: Partition, ranks: int) -> list[list[list[int]]]:
    """Give each rank's groups of the mesh of replicas, the dimensions in order."""
    found = []
    for rank in range(ranks):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        try:
            mesh = replica_mesh(device_mesh(partition, "cpu"))
            assert mesh is not None
            groups = [mesh.get_group(dimension) for dimension in range(mesh.ndim)]
            found.append([sorted(dist.get_process_group_ranks(group)) for group in groups])
        finally:
            dist.destroy_process_group()
    return found


@pytest.mark.filterwarnings("ignore:Slicing a flattened dim")
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("order", [*permutations(("tensor", "context", "data", "pipeline"))])
def test_torchs_groups_are_the_plans_in_every_order_that_is_not_refused(
    order: tuple[Dimension, ...], copies: int
) -> None:
    degrees = {"data": 4, "context": 2, "tensor": 2}
    partition = Partition(**degrees, sharding="parameters", sharding_copies=copies, order=order)
    groups = mesh_groups(partition, ties_ends=False)
    kinds = ["copies", "sharding"] if copies > 1 else ["data"]
    rows = [[groups[kind].ranks[groups[kind].row_of(rank)] for kind in kinds] for rank in range(16)]
    if "context before data" in unshared_by_torch(partition):
        with pytest.raises(KeyError, match="ascending order"):
            groups_of_torch(partition, 16)
        return
    assert groups_of_torch(partition, 16) == [[sorted(map(int, row)) for row in of_rank] for of_rank in rows]


def test_ranks_that_share_are_neighbours_and_their_copies_are_apart() -> None:
    groups = mesh_groups(Partition(data=4, sharding="parameters", sharding_copies=2), ties_ends=False)
    assert groups["sharding"].ranks.tolist() == [[0, 1], [2, 3]]
    assert groups["copies"].ranks.tolist() == [[0, 2], [1, 3]]


def test_both_engines_stand_beside_the_prediction() -> None:
    shown = contents()
    assert engine_rows(shown) == []
    beside = replace(shown, by_programs=shown.measurement)
    step, *phases = engine_rows(beside)
    assert step.term == "step"
    assert step.times_s[1] == step.times_s[2] != step.times_s[0]
    for side in range(3):
        assert sum(row.times_s[side] or 0 for row in phases) == pytest.approx(step.times_s[side], rel=0.1)
    assert "communicated the same" in engines_words(beside)
    assert summary(beside)["by_programs"]["structure"] == {"match": True, "differences": []}
    assert "<h2>Engines</h2>" in render_html(beside)


@pytest.mark.parametrize(("partition", "runs"), [({"data": 2}, True), ({"data": 2, "sharding": "parameters"}, False)])
def test_the_rank_programs_run_beside_torch_where_they_can(partition: dict[str, Any], runs: bool) -> None:
    plan = plan_of(partition=partition)
    other = by_programs(Scenario("native", plan, load(plan.topology, folder=None)))
    assert (other is not None) == runs
    assert other is None or other.plan.run.engine == "program"
