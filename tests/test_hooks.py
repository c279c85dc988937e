"""Compressed training equals DistributedDataParallel with torch's own communication hooks, parameter by parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook, quantization_hooks
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from twinstep.exec.data import batches
from twinstep.exec.measure import measure_in
from twinstep.exec.models import build_layers
from twinstep.learning.codecs import initial_factors
from twinstep.plan import Plan
from twinstep.programs import DataParallel, lower
from twinstep.scenario import load_scenario

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

RANKS = 2
TOLERANCE = 1e-5
"""Of a parameter's difference, as a part of the change that training has made to it."""
COMPRESSIONS = {
    "none": "kind: none",
    "fp16": "kind: fp16",
    "bf16": "kind: bf16",
    "int8": "kind: int8",
    "power_sgd 1": "kind: power_sgd",
    "power_sgd 4": "kind: power_sgd, rank: 4",
    "power_sgd without feedback": "kind: power_sgd, rank: 2, error_feedback: false",
}


def plan_of(options: str, folder: Path) -> Plan:
    path = folder / "scenario.yaml"
    path.write_text(
        "workload: {kind: mlp, hidden: [48, 32], batch: 64, optimizer: {kind: momentum, learning_rate: 0.05}}\n"
        f"partition: {{data: {RANKS}}}\nsync: {{compression: {{{options}}}}}\n"
        f"topology: {{builder: one_host, devices: {RANKS}, device: cpu}}\n"
        "run: {steps: 9, warmup: 1, seed: 3}\n"
    )
    return load_scenario(str(path)).plan


def power_sgd_state(programs: DataParallel) -> powerSGD_hook.PowerSGDState:
    """Give the hook's state as if the first step were past: with our first factors, in the hook's order of tensors."""
    compression = programs.plan.sync.compression
    state = powerSGD_hook.PowerSGDState(
        None,
        matrix_approximation_rank=compression.rank,
        start_powerSGD_iter=2,
        use_error_feedback=compression.feeds_back,
        orthogonalization_epsilon=1e-20,
    )
    state.iter = 2
    (bucket,) = programs.buckets
    known = {p.name: f for p in bucket.parameters if (f := compression.factors(p.shape))}
    flat = torch.from_numpy(initial_factors([(f.columns, f.rank) for f in known.values()], (programs.plan.run.seed, 0)))
    parts = dict(zip(known, flat.split([f.columns * f.rank for f in known.values()]), strict=True))
    order = [parameter.name for parameter in programs.model(0).parameters if parameter.name in known]
    state.q_memory_dict[0] = torch.cat([parts[name] for name in order])
    state.p_memory_dict[0] = torch.empty(sum(known[name].rows * known[name].rank for name in order))
    return state


def register(model: DistributedDataParallel, programs: DataParallel) -> None:
    kind = programs.plan.sync.compression.kind
    hooks: dict[str, Any] = {
        "none": default_hooks.allreduce_hook,
        "fp16": default_hooks.fp16_compress_hook,
        "bf16": default_hooks.bf16_compress_hook,
        "int8": quantization_hooks.quantization_pertensor_hook,
        "power_sgd": powerSGD_hook.powerSGD_hook,
    }
    model.register_comm_hook(power_sgd_state(programs) if kind == "power_sgd" else None, hooks[kind])


def train(rank: int, plan: Plan, folder: Path) -> None:
    """Train as one rank of DistributedDataParallel; buckets are not rebuilt, since it looks for unused parameters."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    programs = lower(plan)
    assert isinstance(programs, DataParallel)
    layers = build_layers(plan.training, plan.run.seed)
    model = DistributedDataParallel(nn.Sequential(*layers), find_unused_parameters=True)
    register(model, programs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = batches(plan, programs.shards[rank])
    for step in range(plan.total_steps):
        inputs, targets = data.batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    if rank == 0:
        torch.save({name: p.detach() for name, p in layers.named_parameters()}, folder / "theirs.pt")
    dist.destroy_process_group()


def norm(tensor: Tensor) -> float:
    return float(tensor.norm())


@pytest.mark.parametrize("case", COMPRESSIONS)
def test_compressed_training_is_that_of_torchs_hook(case: str, tmp_path: Path) -> None:
    plan = plan_of(COMPRESSIONS[case], tmp_path)
    processes.spawn(train, (plan, tmp_path), nprocs=RANKS)
    theirs = torch.load(tmp_path / "theirs.pt", weights_only=True)
    measure_in(tmp_path, plan, None, lambda step: None)
    ours = torch.load(tmp_path / "parameters.pt", weights_only=True)
    first = dict(build_layers(plan.training, plan.run.seed).named_parameters())
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        change = norm(expected - first[name].detach())
        assert change > 0.01
        assert norm(ours[name] - expected) <= TOLERANCE * change, name
