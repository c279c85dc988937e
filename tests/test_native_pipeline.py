"""A GPT in the stages of torch.distributed.pipelining learns what one process learns, by every schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from twinstep.degrees import V_SHAPED
from twinstep.exec import models
from twinstep.exec.data import batches
from twinstep.exec.models import build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.exec.native.pipeline import Pipeline, PipelineGroups, Wrap
from twinstep.exec.native.slots import StageSlot
from twinstep.partition import Schedule
from twinstep.plan import Plan
from twinstep.programs.placement import shards
from twinstep.programs.schedules import slots, stage_of
from twinstep.programs.stage import microbatch_shape
from twinstep.workloads import TIED_WEIGHT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

HEADS, WIDTH = 2, 32
WORKLOAD = {
    "kind": "gpt",
    "layers": 9,
    "heads": HEADS,
    "width": WIDTH,
    "context": 16,
    "batch": 16,
    "optimizer": {"kind": "momentum", "learning_rate": 0.3},  # AdamW would not see a wrong scale of gradients
}
STEPS = 10
TOLERANCE = 1e-4
"""Of a parameter's difference, as a part of the change that training has made to it; of a loss, of itself. Microbatches
by themselves make 1e-5, as sums are rounded otherwise."""


class Case(NamedTuple):
    """A plan, and who has gradients summed over its data-parallel ranks."""

    schedule: Schedule
    pipeline: int
    microbatches: int
    chunks: int = 1
    data: int = 1
    wrapper: str = ""
    tensor: int = 1

    def __str__(self) -> str:
        return " ".join(str(each) for each in self if each)

    @property
    def ranks(self) -> int:
        return self.pipeline * self.data * self.tensor

    @property
    def plan(self) -> Plan:
        partition = {name: value for name, value in self._asdict().items() if name != "wrapper"}
        return Plan.model_validate(
            {
                "workload": WORKLOAD,
                "partition": partition,
                "topology": {"builder": "one_host", "devices": self.ranks, "device": "cpu"},
                "run": {"steps": STEPS, "warmup": 0, "seed": 3, "compute": "emulated"},
            }
        )


class Learnt(NamedTuple):
    losses: Tensor
    """Of all steps."""
    parameters: dict[str, Tensor]
    """After the last step."""


INTERLEAVED: Schedule = "interleaved_one_forward_one_backward"
ALL: list[tuple[Schedule, int]] = [
    ("gpipe", 1),
    ("one_forward_one_backward", 1),
    ("zero_bubble", 1),
    (INTERLEAVED, 2),
    ("interleaved_zero_bubble", 2),
    ("zero_bubble_v", 2),
    ("dual_pipe_v", 2),
]
"""Every schedule, and how many chunks of a rank are tried with it."""
CASES = [
    *(Case(schedule, 2, 4, chunks) for schedule, chunks in ALL),
    Case("one_forward_one_backward", 2, 8),
    Case(INTERLEAVED, 2, 8, chunks=3),
    Case("one_forward_one_backward", 4, 8),
    Case("zero_bubble", 4, 4),
    Case(INTERLEAVED, 4, 8, chunks=2),
    Case("zero_bubble_v", 4, 4, chunks=2),
    Case("dual_pipe_v", 4, 8, chunks=2),
    *(Case(schedule, 2, 4, chunks, data=2, wrapper="fully_shard") for schedule, chunks in ALL[1:]),
    Case("one_forward_one_backward", 2, 4, data=2, wrapper="ddp"),
    Case(INTERLEAVED, 2, 4, chunks=2, data=2, wrapper="ddp"),
    Case("one_forward_one_backward", 2, 4, data=2, wrapper="fully_shard", tensor=2),
]


def of_ranks(ranks: int) -> list[Case]:
    return [case for case in CASES if case.ranks == ranks]


def train_all(rank: int, cases: list[Case]) -> dict[str, dict[str, Any]]:
    """Train every case as one rank; give what is known on it."""
    models.causal_attention = attention_of_whole_heads
    return {str(case): train_one(case, rank) for case in cases}


def train_one(case: Case, rank: int) -> dict[str, Any]:
    """Train one case: tensor-parallel ranks are neighbours, stages are farthest apart."""
    plan = case.plan
    shape = (case.pipeline, case.data, case.tensor)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("pipeline", "data", "tensor"))
    stage, replica, _ = np.unravel_index(rank, shape)
    layers = build_layers(plan.training, plan.run.seed)
    if case.tensor > 1:
        share_tensors(layers, mesh["tensor"])
    wrap = wrap_of(case.wrapper, mesh["data"])
    seen = Seen()
    pipeline = Pipeline(
        plan, layers, int(stage), groups_of(case, mesh), wrap=wrap, replicas=case.data, around=seen.around
    )
    optimizer = make_optimizer(plan.training, pipeline.model)
    data = batches(plan, shards(plan.training.samples, case.data)[replica])
    losses = []
    with seen.messages():
        for step in range(STEPS):
            seen.begin_step()
            losses.append(pipeline.run(*data.batch(step)))
            optimizer.step()
            optimizer.zero_grad()
    parameters = {name: whole(parameter) for name, parameter in pipeline.named_parameters()}
    return {"losses": torch.stack(losses), "parameters": parameters, "slots": seen.slots, "sent": seen.sent}


class Seen:
    """What a rank does, step by step."""

    def __init__(self) -> None:
        self.slots: list[list[str]] = []
        self.sent: list[list[int]] = []
        """Bytes of messages."""

    def begin_step(self) -> None:
        self.slots.append([])
        self.sent.append([])

    @contextmanager
    def around(self, slot: StageSlot) -> Iterator[None]:
        name = str(slot)
        if not self.slots[-1] or self.slots[-1][-1] != name:  # the loss enters the slot of the last layers again
            self.slots[-1].append(name)
        yield

    @contextmanager
    def messages(self) -> Iterator[None]:
        send = dist.ProcessGroup.send

        def noted(group: dist.ProcessGroup, tensors: list[Tensor], target: int, tag: int) -> dist.Work:
            self.sent[-1] += [tensor.nbytes for tensor in tensors]
            return send(group, tensors, target, tag)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist.ProcessGroup, "send", noted)
            yield


def attention_of_whole_heads(qkv: Tensor, heads: int) -> Tensor:
    """Attend as the model does, but with a head's query, key and value side by side: a part of them is whole heads."""
    samples, context, triple = qkv.shape
    head = WIDTH // HEADS
    split = qkv.view(samples, context, triple // 3 // head, 3, head).permute(3, 0, 2, 1, 4)
    mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
    return mixed.transpose(1, 2).reshape(samples, context, triple // 3)


def share_tensors(layers: nn.ModuleList, mesh: DeviceMesh) -> None:
    """Share the products of blocks; embedding and head are whole everywhere."""
    products: dict[str, ParallelStyle] = {"qkv": ColwiseParallel(), "up": ColwiseParallel()}
    for block in layers[1:-1]:
        parallelize_module(block, mesh, products | {"project": RowwiseParallel(), "down": RowwiseParallel()})


def groups_of(case: Case, mesh: DeviceMesh) -> PipelineGroups:
    """Find the rank's groups; every rank makes those of all ends, as torch asks."""
    beside = case.data * case.tensor
    embeddings = [dist.new_group([place, place + beside * (case.pipeline - 1)]) for place in range(beside)]
    has_one_end = mesh.get_local_rank("pipeline") in (0, case.pipeline - 1) and case.schedule not in V_SHAPED
    embedding = embeddings[mesh.get_rank() % beside] if has_one_end else None
    return PipelineGroups(mesh.get_group("pipeline"), embedding)


def wrap_of(wrapper: str, mesh: DeviceMesh) -> Wrap:
    match wrapper:
        case "ddp":
            return lambda module: DistributedDataParallel(module, process_group=mesh.get_group())
        case "fully_shard":
            return lambda module: shard_blocks(module, mesh)
        case _:
            return lambda module: module


def shard_blocks(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for layer in module.children():
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    return fully_shard(module, mesh=mesh, reshard_after_forward=False)


def whole(parameter: nn.Parameter) -> Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()


@pytest.fixture(scope="module")
def alone() -> Learnt:
    """Train in this process: the whole model and the whole batch."""
    torch.set_num_threads(1)
    plan = CASES[0].plan
    layers = build_layers(plan.training, plan.run.seed)
    data = batches(plan, range(plan.training.samples))
    optimizer = make_optimizer(plan.training, layers)
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "causal_attention", attention_of_whole_heads)
        for step in range(STEPS):
            inputs, targets = data.batch(step)
            loss = loss_sum(plan.training, nn.Sequential(*layers)(inputs), targets) / loss_terms(plan.training)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return Learnt(torch.stack(losses), {name: parameter.detach() for name, parameter in layers.named_parameters()})


@pytest.fixture(scope="module")
def in_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for ranks in sorted({case.ranks for case in CASES}):
        cases = of_ranks(ranks)
        seen = run_ranks(train_all, ranks, tmp_path_factory.mktemp("ranks"), cases)
        found |= {str(case): [each[str(case)] for each in seen] for case in cases}
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stages_learn_what_one_process_learns(
    case: Case, in_ranks: dict[str, list[dict[str, Any]]], alone: Learnt
) -> None:
    found = in_ranks[str(case)]
    losses = sum(each["losses"] for each in found) / case.tensor
    assert alone.losses[-1] < 0.95 * alone.losses[0], "nothing is learnt"
    torch.testing.assert_close(losses, alone.losses, rtol=TOLERANCE, atol=0)
    first = dict(build_layers(case.plan.training, case.plan.run.seed).named_parameters())
    seen = set()
    for each in found:
        for name, parameter in each["parameters"].items():
            known = name if name in alone.parameters else TIED_WEIGHT
            expected = alone.parameters[known]
            change = float((expected - first[known]).norm())
            assert float((parameter - expected).norm()) <= TOLERANCE * change, name
            seen.add(known)
    assert seen == alone.parameters.keys()


@pytest.mark.parametrize("case", [case for case in CASES if case.ranks == case.pipeline], ids=str)
def test_slots_are_in_the_order_of_the_rank_programs(case: Case, in_ranks: dict[str, list[dict[str, Any]]]) -> None:
    partition = case.plan.partition
    for rank, each in enumerate(in_ranks[str(case)]):
        expected = [
            f"{stage_of(partition, rank, slot.chunk)}{slot.direction}{slot.microbatch}"
            for slot in slots(partition, rank)
        ]
        assert each["slots"] == [expected] * STEPS


def neighbours_elsewhere(case: Case, position: int) -> int:
    """Count the neighbours of a rank's stages that other ranks have."""
    mine = [stage_of(case.plan.partition, position, chunk) for chunk in range(case.chunks)]
    around = [stage + way for stage in mine for way in (-1, 1)]
    return sum(0 <= stage < case.pipeline * case.chunks and stage not in mine for stage in around)


@pytest.mark.parametrize("case", [case for case in CASES if case.ranks == case.pipeline], ids=str)
def test_each_border_is_crossed_twice_by_each_microbatch(case: Case, in_ranks: dict[str, list[dict[str, Any]]]) -> None:
    borders = case.pipeline * case.chunks - 1 - (case.schedule in V_SHAPED)
    counts = [neighbours_elsewhere(case, position) for position in range(case.pipeline)]
    assert sum(counts) == 2 * borders
    for count, each in zip(counts, in_ranks[str(case)], strict=True):
        first, *others = each["sent"]
        expected = [microbatch_shape(case.plan).stream_bytes] * case.microbatches * count
        assert others == [expected] * (STEPS - 1)
        assert first == [4] * count + expected, "shapes are known: stages agree on that, and no more"
