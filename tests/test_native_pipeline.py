"""A GPT in the stages of torch.distributed.pipelining learns what one process learns, by every schedule."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from twinstep.degrees import V_SHAPED
from twinstep.exec.data import batches
from twinstep.exec.models import build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.exec.native.pipeline import Pipeline, PipelineGroups, Wrap
from twinstep.partition import Schedule
from twinstep.plan import Plan
from twinstep.programs.placement import shards
from twinstep.workloads import TIED_WEIGHT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STEPS = 10
TOLERANCE = 1e-4
"""Of a parameter's difference, as a part of the change that training has made to it; of a loss, of itself."""
WAIT = timedelta(seconds=60)


class Case(NamedTuple):
    """A plan, and who has gradients summed over its data-parallel ranks."""

    schedule: Schedule
    pipeline: int
    microbatches: int
    chunks: int = 1
    data: int = 1
    wrapper: str = ""

    def __str__(self) -> str:
        return " ".join(str(each) for each in self if each)

    @property
    def plan(self) -> Plan:
        partition = {name: value for name, value in self._asdict().items() if name != "wrapper"}
        return Plan.model_validate(
            {
                "workload": {"kind": "gpt", "layers": 5, "heads": 2, "width": 32, "context": 16, "batch": 16},
                "partition": partition,
                "topology": {"builder": "one_host", "devices": self.pipeline * self.data, "device": "cpu"},
                "run": {"steps": STEPS, "warmup": 0, "seed": 3, "compute": "emulated"},
            }
        )


class Learnt(NamedTuple):
    losses: Tensor
    """Of all steps."""
    parameters: dict[str, Tensor]
    """After the last step."""


INTERLEAVED: Schedule = "interleaved_one_forward_one_backward"
CASES = {
    2: [
        Case("gpipe", 2, 4),
        Case("gpipe", 2, 8),
        Case("one_forward_one_backward", 2, 4),
        Case("zero_bubble", 2, 4),
        Case(INTERLEAVED, 2, 8, chunks=2),
        Case("interleaved_zero_bubble", 2, 8, chunks=2),
        Case("zero_bubble_v", 2, 4, chunks=2),
        Case("dual_pipe_v", 2, 8, chunks=2),
    ],
    4: [
        Case("one_forward_one_backward", 4, 8),
        Case("zero_bubble", 4, 8),
        *(
            Case(schedule, 2, 4, chunks, data=2, wrapper=wrapper)
            for wrapper in ("ddp", "fully_shard")
            for schedule, chunks in (
                ("gpipe", 1),
                ("one_forward_one_backward", 1),
                (INTERLEAVED, 2),
                ("zero_bubble", 1),
                ("zero_bubble_v", 2),
                ("dual_pipe_v", 2),
            )
        ),
    ],
}
"""By the number of ranks."""


def train_in_ranks(rank: int, ranks: int, folder: Path) -> None:
    """Train every case as one rank, and save what is known on it."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=WAIT)
    found = {str(case): train_one(case, rank) for case in CASES[ranks]}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads, still running, may abort a process that Python takes down in order


def train_one(case: Case, rank: int) -> dict[str, Any]:
    """Train one case; ranks are numbered by the stage first, so that data-parallel ones are neighbours."""
    plan = case.plan
    mesh = init_device_mesh("cpu", (case.pipeline, case.data), mesh_dim_names=("pipeline", "data"))
    stage, replica = divmod(rank, case.data)
    layers = build_layers(plan.training, plan.run.seed)
    pipeline = Pipeline(
        plan, layers, stage, groups_of(case, mesh, rank), wrap=wrap_of(case.wrapper, mesh["data"]), replicas=case.data
    )
    optimizer = make_optimizer(plan.training, pipeline.model)
    data = batches(plan, shards(plan.training.samples, case.data)[replica])
    losses = []
    for step in range(STEPS):
        losses.append(pipeline.run(*data.batch(step)))
        optimizer.step()
        optimizer.zero_grad()
    return {
        "losses": torch.stack(losses),
        "parameters": {name: whole(parameter) for name, parameter in pipeline.named_parameters()},
    }


def groups_of(case: Case, mesh: DeviceMesh, rank: int) -> PipelineGroups:
    stage, replica = divmod(rank, case.data)
    ends = [[place, place + case.data * (case.pipeline - 1)] for place in range(case.data)]
    embeddings = [dist.new_group(each) for each in ends]
    has_one_end = stage in (0, case.pipeline - 1) and case.schedule not in V_SHAPED
    return PipelineGroups(mesh.get_group("pipeline"), embeddings[replica] if has_one_end else None)


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
    plan = CASES[2][0].plan
    model = build_layers(plan.training, plan.run.seed)
    data = batches(plan, range(plan.training.samples))
    optimizer = make_optimizer(plan.training, model)
    losses = []
    for step in range(STEPS):
        inputs, targets = data.batch(step)
        loss = loss_sum(plan.training, nn.Sequential(*model)(inputs), targets) / loss_terms(plan.training)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return Learnt(torch.stack(losses), {name: parameter.detach() for name, parameter in model.named_parameters()})


def run_ranks(ranks: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as patch:  # so that the processes find this module
        patch.syspath_prepend(Path(__file__).parents[1])
        processes.spawn(train_in_ranks, (ranks, folder), nprocs=ranks)
    files = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    return {str(case): [file[str(case)] for file in files] for case in CASES[ranks]}


@pytest.fixture(scope="module")
def in_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for ranks in CASES:
        found |= run_ranks(ranks, tmp_path_factory.mktemp("ranks"))
    return found


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases], ids=str)
def test_stages_learn_what_one_process_learns(
    case: Case, in_ranks: dict[str, list[dict[str, Any]]], alone: Learnt
) -> None:
    found = in_ranks[str(case)]
    losses = sum(each["losses"] for each in found)
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
