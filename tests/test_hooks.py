"""Compressed training equals DistributedDataParallel with torch's own communication hooks, parameter by parameter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks
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
UNCOMPRESSED = 2
"""DistributedDataParallel orders its buckets anew after the first step, so its PowerSGD begins with the third."""
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
    """Give the hook's state with our first factors, in the order of the bucket."""
    compression = programs.plan.sync.compression
    state = powerSGD_hook.PowerSGDState(
        None,
        matrix_approximation_rank=compression.rank,
        start_powerSGD_iter=UNCOMPRESSED,
        use_error_feedback=compression.feeds_back,
        orthogonalization_epsilon=1e-20,
    )
    (bucket,) = programs.buckets
    known = [factors for p in bucket.parameters if (factors := compression.factors(p.shape))]
    seed = (programs.plan.run.seed, bucket.index)
    state.q_memory_dict[0] = torch.from_numpy(initial_factors([(f.columns, f.rank) for f in known], seed))
    state.p_memory_dict[0] = torch.empty(sum(f.rows * f.rank for f in known))
    return state


def _bf16_hook(group, bucket):  # type: ignore[no-untyped-def]
    """Call torch's hook, which DistributedDataParallel refuses by its name without NCCL; gloo sums bfloat16."""
    return default_hooks.bf16_compress_hook(group, bucket)


def _all_gather(outputs: list[Tensor], tensor: Tensor, **options: Any) -> SimpleNamespace:
    """Gather with the result that NCCL's future has, a list of lists, which the hook expects; gloo's is a list."""
    future = dist.all_gather(outputs, tensor, **options).get_future().then(lambda _: [outputs])
    return SimpleNamespace(get_future=lambda: future)


def register(model: DistributedDataParallel, programs: DataParallel) -> None:
    kind = programs.plan.sync.compression.kind
    hooks: dict[str, Any] = {
        "none": default_hooks.allreduce_hook,
        "fp16": default_hooks.fp16_compress_hook,
        "bf16": _bf16_hook,
        "int8": quantization_hooks.quantization_pertensor_hook,
        "power_sgd": powerSGD_hook.powerSGD_hook,
    }
    model.register_comm_hook(power_sgd_state(programs) if kind == "power_sgd" else None, hooks[kind])


def train(rank: int, plans: dict[str, Plan]) -> dict[str, dict[str, Tensor]]:
    """Train each plan as one rank of DistributedDataParallel."""
    quantization_hooks.dist = SimpleNamespace(**vars(dist) | {"all_gather": _all_gather})
    return {case: train_one(plan, rank) for case, plan in plans.items()}


def train_one(plan: Plan, rank: int) -> dict[str, Tensor]:
    """Train; before the first step gradients are made and forgotten until buckets have their last order."""
    programs = lower(plan)
    assert isinstance(programs, DataParallel)
    layers = build_layers(plan.training, plan.run.seed)
    model = DistributedDataParallel(nn.Sequential(*layers))
    register(model, programs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = batches(plan, programs.shards[rank])
    for step in range(-UNCOMPRESSED, plan.total_steps):
        inputs, targets = data.batch(max(step, 0))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        if step >= 0:
            optimizer.step()
    return {name: p.detach() for name, p in layers.named_parameters()}


def norm(tensor: Tensor) -> float:
    return float(tensor.norm())


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("hooks")
    plans = {case: plan_of(options, folder) for case, options in COMPRESSIONS.items()}
    return run_ranks(train, RANKS, folder, plans)[0]


@pytest.mark.parametrize("case", COMPRESSIONS)
def test_compressed_training_is_that_of_torchs_hook(
    case: str, theirs: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    plan = plan_of(COMPRESSIONS[case], tmp_path)
    measure_in(tmp_path, plan, None, lambda step: None)
    ours = torch.load(tmp_path / "parameters.pt", weights_only=True)
    first = dict(build_layers(plan.training, plan.run.seed).named_parameters())
    assert ours.keys() == theirs[case].keys()
    for name, expected in theirs[case].items():
        change = norm(expected - first[name].detach())
        assert change > 0.01
        assert norm(ours[name] - expected) <= TOLERANCE * change, name
