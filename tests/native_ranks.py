"""Ranks that train a small GPT with torch's own parallelism, for tests: losses, parameters, and what they sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tests.ranks import run_ranks
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twinstep.exec.models import Block, build_layers, loss_sum, make_optimizer
from twinstep.exec.native.context import share_context
from twinstep.exec.native.tensor import complete_gradients, share_tensors
from twinstep.workloads import Gpt
from twinstep.workloads.gpt import VOCABULARY

RANKS = 4
STEPS = 10
LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 2, 4, 32, 16, 6
RATES = {"adamw": 0.01, "momentum": 0.5}
WRAPPERS: dict[str, Callable[..., nn.Module]] = {"fully_shard": fully_shard, "replicate": replicate}


@dataclass(frozen=True, slots=True)
class Case:
    """How four ranks share the work; ranks that `tensor`, `context` and a wrapper leave over do the same."""

    tensor: int = 1
    context: int = 1
    sequence_parallel: bool = False
    wrapper: str = ""
    """Over the dimension `data`, or over data and context: a name in WRAPPERS."""
    optimizer: str = "adamw"
    microbatches: int = 1
    completes: bool = True
    """Whether gradients are completed before the update, where that is left to us."""

    @property
    def workload(self) -> Gpt:
        sizes = {"layers": LAYERS, "heads": HEADS, "width": WIDTH, "context": CONTEXT, "batch": BATCH}
        optimizer = {"kind": self.optimizer, "learning_rate": RATES[self.optimizer]}
        return Gpt.model_validate({"kind": "gpt", **sizes, "optimizer": optimizer})

    @property
    def rows(self) -> int:
        """How many of data's rows have samples of their own."""
        return RANKS // self.tensor // self.context if self.wrapper else 1


class Sent(NamedTuple):
    """A collective, with the bytes of the whole: a gather's result, what goes into all others."""

    kind: str
    size_bytes: int
    dimension: str


class Outcome(NamedTuple):
    losses: list[float]
    parameters: dict[str, Tensor]
    sent: dict[str, list[Sent]]
    """By phase of the last step."""


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Give the tokens and targets of a step, (samples, context) each; targets can be learnt."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT), generator=generator)
    return tokens, (tokens * 7 + 3) % VOCABULARY


def train_alone(case: Case) -> Outcome:
    """Train in one process."""
    layers = build_layers(case.workload, seed=3)
    optimizer = make_optimizer(case.workload, layers)
    losses = []
    for step in range(STEPS):
        tokens, targets = batch(step)
        optimizer.zero_grad()
        loss = loss_sum(case.workload, nn.Sequential(*layers)(tokens), targets) / tokens.numel()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, {name: parameter.detach() for name, parameter in layers.named_parameters()}, {})


def train_in_ranks(cases: dict[str, Case], folder: Path) -> dict[str, Outcome]:
    """Train each case by four processes, one case after the other; give what the first rank found."""
    return run_ranks(_train_all, RANKS, folder, cases)[0]


def _train_all(rank: int, cases: dict[str, Case]) -> dict[str, Outcome]:
    found = {name: _train(case) for name, case in cases.items()}
    return found if rank == 0 else {}


def _train(case: Case) -> Outcome:
    shape = (RANKS // case.tensor // case.context, case.context, case.tensor)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "context", "tensor"))
    model = nn.Sequential(*build_layers(case.workload, seed=3))
    if case.tensor > 1:
        share_tensors(model, mesh, sequence_parallel=case.sequence_parallel)
    if case.wrapper:
        _wrap(model, case, mesh)
    optimizer = make_optimizer(case.workload, model)
    losses = []
    for step in range(STEPS):
        record = Recorder(_dimensions(mesh))
        with loss_parallel(), record:
            losses.append(_step(case, model, mesh, step, record))
            record.phase = "optimizer"
            if case.sequence_parallel and case.completes:
                complete_gradients(model)
            optimizer.step()
        optimizer.zero_grad()
    parameters = {name: _whole(parameter) for name, parameter in model.named_parameters()}
    return Outcome(losses, parameters, record.sent)


def _wrap(model: nn.Module, case: Case, mesh: DeviceMesh) -> None:
    over = mesh["data", "context"]._flatten("samples") if case.context > 1 else mesh["data"]
    for layer in [*(child for child in model.children() if isinstance(child, Block)), model]:
        WRAPPERS[case.wrapper](layer, mesh=over)


def _step(case: Case, model: nn.Module, mesh: DeviceMesh, step: int, record: Recorder) -> float:
    """Do the passes of a step; give the loss of the whole batch."""
    row = mesh["data"].get_local_rank() if case.wrapper else 0
    tokens, targets = (part.chunk(case.rows)[row] for part in batch(step))
    total = torch.zeros(())
    for number, (inputs, wanted) in enumerate(
        zip(tokens.chunk(case.microbatches), targets.chunk(case.microbatches), strict=True)
    ):
        if case.wrapper:
            model.set_requires_gradient_sync(number == case.microbatches - 1)
        with _own(case, model, mesh, inputs, wanted) as (own, own_targets):
            record.phase = f"forward {number}"
            loss = loss_sum(case.workload, model(own), own_targets) / (own.numel() * case.microbatches)
            record.phase = f"backward {number}"
            loss.backward()
        total += _whole(loss)
    record.phase = "loss of all"
    if case.wrapper:
        dist.all_reduce(total)
        total /= RANKS
    return total.item()


@contextmanager
def _own(case: Case, model: nn.Module, mesh: DeviceMesh, *both: Tensor) -> Iterator[tuple[Tensor, ...]]:
    if case.context == 1:
        yield both
        return
    with share_context(model, mesh, *both) as own:
        yield own


def _whole(tensor: Tensor) -> Tensor:
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def _dimensions(mesh: DeviceMesh) -> dict[tuple[int, ...], str]:
    """Name the groups of this rank by their ranks; `samples` is data and context where both are more than one."""
    names = [name for name in ("data", "context", "tensor") if mesh[name].size() > 1]
    known = {tuple(dist.get_process_group_ranks(mesh[name].get_group())): name for name in names}
    return {tuple(range(RANKS)): "samples"} | known


KINDS = {
    "all_reduce": "all_reduce",
    "allreduce_": "all_reduce",
    "all_gather_into_tensor": "all_gather",
    "_allgather_base_": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "all_to_all_single": "all_to_all",
}
"""Torch's operations, those of its functional collectives and those of process groups, by what they are."""


class Recorder(TorchDispatchMode):
    """Notes every collective that torch issues, by phase, in order."""

    def __init__(self, dimensions: dict[tuple[int, ...], str]) -> None:
        super().__init__()
        self._dimensions = dimensions
        self.phase = ""
        self.sent: dict[str, list[Sent]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        kind = KINDS.get(func.__name__.split(".")[0]) if "c10d" in func.namespace else None
        if kind:
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            sizes = [each.numel() * each.element_size() for each in tensors]
            size_bytes = sizes[0] if kind == "all_to_all" else max(sizes)
            self.sent.setdefault(self.phase, []).append(Sent(kind, size_bytes, self._dimension(args)))
        return result

    def _dimension(self, args: Any) -> str:
        for leaf in tree_leaves(args):
            if isinstance(leaf, str) and leaf.isdigit():
                group = dist.distributed_c10d._resolve_process_group(leaf)
            elif isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
                group = dist.ProcessGroup.unbox(leaf)
            else:
                continue
            return self._dimensions[tuple(dist.get_process_group_ranks(group))]
        raise ValueError("a collective without a group")
