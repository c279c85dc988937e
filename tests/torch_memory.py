"""What torch allocates on a CPU, by its own reports: the profiler sees every call of the allocator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from twinstep.exec.models import Block, build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.plan import Plan
from twinstep.workloads import Gpt

_REPEATS = 4


def most_allocated_bytes(act: Callable[[], None]) -> int:
    """Give the most that was allocated at a time, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for _, size_bytes in sorted(changes, key=lambda change: change[0]):
        held += size_bytes
        most = max(most, held)
    return most


class OneProcess:
    """Trains a GPT as one process would: microbatches one after another, gradients cleared after each step."""

    def __init__(self, workload: Gpt, microbatches: int, *, recomputes: bool) -> None:
        self._workload = workload
        self._microbatches = microbatches
        self._recomputes = recomputes
        self.layers = build_layers(workload, seed=0)
        self.optimizer = make_optimizer(workload, self.layers)
        samples = (workload.batch, workload.context)
        self._inputs, self._targets = (torch.randint(0, 256, samples) for _ in range(2))

    def step(self, *, clear: bool = True) -> None:
        for inputs, targets in zip(*(t.chunk(self._microbatches) for t in (self._inputs, self._targets)), strict=True):
            self._pass(inputs, targets)
        self.optimizer.step()
        if clear:
            self.optimizer.zero_grad()

    def _pass(self, inputs: Tensor, targets: Tensor) -> None:
        outputs = self._forward(inputs)
        loss = loss_sum(self._workload, outputs, targets) / loss_terms(self._workload)
        loss.backward()

    def _forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            recomputes = self._recomputes and isinstance(layer, Block)
            inputs = _recomputed(layer, inputs) if recomputes else layer(inputs)
        return inputs

    def saved_bytes(self) -> int:
        """Give the bytes of all storages that autograd keeps in a forward pass, but for parameters and data."""
        others = [*self.layers.parameters(), *self.layers.buffers(), self._inputs, self._targets]
        known = {tensor.untyped_storage().data_ptr() for tensor in others}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            return tensor

        (inputs, *_), (targets, *_) = (t.chunk(self._microbatches) for t in (self._inputs, self._targets))
        with nullcontext() if self._recomputes else saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_sum(self._workload, self._forward(inputs), targets)
        del loss
        return sum(size for where, size in found.items() if where not in known)

    def state_bytes(self) -> int:
        """Give the bytes of the optimizer's state."""
        states = self.optimizer.state.values()
        return sum(each.nbytes for state in states for each in state.values() if isinstance(each, Tensor))


class Shared(OneProcess):
    """One of several ranks that have equal parts of a batch, by fully_shard or DistributedDataParallel."""

    def __init__(self, plan: Plan) -> None:
        workload, partition = plan.training, plan.partition
        assert isinstance(workload, Gpt)
        part = workload.model_copy(update={"batch": workload.batch // partition.data})
        super().__init__(part, partition.microbatches, recomputes=partition.recompute == "full")
        self._model = nn.Sequential(*self.layers)
        self._is_sharded = partition.sharding in ("gradients", "parameters")
        self._buckets_bytes = 0
        if self._is_sharded:
            gathers_twice = partition.sharding == "parameters"
            for block in (layer for layer in self.layers if isinstance(layer, Block)):
                fully_shard(block, reshard_after_forward=gathers_twice)
            fully_shard(self._model, reshard_after_forward=None if gathers_twice else False)
        else:
            self._buckets_bytes = sum(p.nbytes for p in self._model.parameters())
            self._model = DistributedDataParallel(self._model, gradient_as_bucket_view=True)  # type: ignore[assignment]
        self.optimizer = make_optimizer(workload, self._model)  # type: ignore[arg-type]

    def _pass(self, inputs: Tensor, targets: Tensor) -> None:
        self._turn = getattr(self, "_turn", 0) + 1
        is_last = self._turn % self._microbatches == 0
        if self._is_sharded:
            self._model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        with nullcontext() if self._is_sharded or is_last else self._model.no_sync():  # type: ignore[operator]
            outputs = self._model(inputs)
            (loss_sum(self._workload, outputs, targets) / loss_terms(self._workload)).backward()

    def held_bytes(self) -> int:
        """Give the bytes that this rank has between steps."""
        local = [_local(parameter) for parameter in self._model.parameters()]
        states = [_local(each) for state in self.optimizer.state.values() for each in state.values()]
        return self._buckets_bytes + sum(tensor.nbytes for tensor in local + states)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def measure_rank(rank: int, plan: Plan) -> tuple[int, int]:
    """Run one of the ranks of a plan; give the bytes that it holds between steps, and at the most."""
    del rank  # all have the same data
    init_device_mesh("cpu", (plan.ranks,))
    trained = Shared(plan)
    for _ in range(2):  # DistributedDataParallel rebuilds its buckets in the second step
        trained.step()
    before = trained.held_bytes()
    # gloo's threads let go of their own buffers when they get round to it: of several steps, the one with the fewest
    return before, before + min(most_allocated_bytes(trained.step) for _ in range(_REPEATS))


def _recomputed(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Keep the input alone: without dropout no state of a random generator is needed."""
    found: Tensor = checkpoint(layer, inputs, use_reentrant=False, preserve_rng_state=False)
    return found


def bytes_of(module: nn.Module) -> tuple[int, int]:
    """Give the bytes of parameters and of gradients."""
    parameters = list(module.parameters())
    return sum(p.nbytes for p in parameters), sum(p.grad.nbytes for p in parameters if p.grad is not None)
