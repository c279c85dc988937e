"""Memory: what a rank really holds, as torch counts it, in two steps of their own after all that are timed.

The learning rate is zero in these steps, so that no parameter changes. Parameters, gradients and the optimizer's state
are counted tensor by tensor, of a DTensor the rank's own part.

The peak is, on GPUs, that of torch's caching allocator; what it has reserved beyond the peak is fragmentation, counted
from the moment when it has given back what setting up had left (`torch.cuda.empty_cache`). On CPUs torch has no such
figure: the profiler reports every call of the allocator in a step, and what was there before is added: parameters,
optimizer's state, gradients that outlive a step (DistributedDataParallel's buckets), and what else the rank keeps. Of
the two steps the one with the lower peak counts: gloo's threads give back their own buffers when they get round to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile  # that of torch.profiler imports sympy when it is first used
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer

from twinstep.memory_use import MemoryUse

_STEPS = 2
_KINETO_IS_SILENT = {"KINETO_LOG_LEVEL": "6"}
"""Below that the profiler's library prints a line whenever it starts or stops. It reads this when it is first used."""


def measure_memory(
    step: Callable[[], None],
    parameters: Iterable[Tensor],
    optimizer: Optimizer,
    device: torch.device,
    others: Sequence[Tensor] = (),
) -> MemoryUse:
    """Take steps, and give what is held; `others` are tensors that the rank keeps beside its model."""
    known = [*parameters]
    gradients = _Gradients(known)
    hook = optimizer.register_step_post_hook(gradients.note)
    with _resting(optimizer):
        if device.type == "cuda":
            peak, fragmentation = _of_cuda(step, device)
        else:
            peak, fragmentation = min(_beyond(step, gradients) for _ in range(_STEPS)), None
    hook.remove()
    own, state = _bytes(known), _bytes(_state(optimizer))
    if device.type != "cuda":
        peak += own + state + _bytes(others)
    return MemoryUse(own, gradients.size_bytes, state, peak, fragmentation)


class _Gradients:
    """The gradients that the optimizer has last seen."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._seen: list[tuple[StorageWeakRef, int]] = []

    def note(self, *_: Any) -> None:
        """Note those that are there now."""
        local = [_local(each.grad) for each in self._parameters if each.grad is not None]
        self._seen = [(StorageWeakRef(each.untyped_storage()), each.nbytes) for each in local]  # type: ignore[no-untyped-call]

    @property
    def size_bytes(self) -> int:
        """Count the bytes of all."""
        return sum(size for _, size in self._seen)

    @property
    def kept_bytes(self) -> int:
        """Count those of gradients that are still there, in a wrapper's buckets perhaps."""
        kept = [size for storage, size in self._seen if not storage.expired()]  # type: ignore[no-untyped-call]
        return sum(kept)


def _of_cuda(step: Callable[[], None], device: torch.device) -> tuple[int, int]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(_STEPS):
        step()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return peak, torch.cuda.max_memory_reserved(device) - peak


def _beyond(step: Callable[[], None], gradients: _Gradients) -> int:
    """Give the most that a step holds beyond parameters and optimizer's state, in bytes."""
    os.environ.update(_KINETO_IS_SILENT)
    with profile(profile_memory=True) as profiler:
        step()
    events = profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held = most = 0
    for _, size_bytes in sorted(changes, key=lambda change: change[0]):
        held += size_bytes
        most = max(most, held)
    return most + gradients.kept_bytes


@contextmanager
def _resting(optimizer: Optimizer) -> Iterator[None]:
    """Let the optimizer do all its work and change nothing but its own state."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _state(optimizer: Optimizer) -> list[Tensor]:
    """List the tensors of an optimizer's state; ZeroRedundancyOptimizer has an optimizer for the rank's share."""
    own = getattr(optimizer, "optim", optimizer)
    return [each for state in own.state.values() for each in state.values() if isinstance(each, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_local(each).nbytes for each in tensors)


def _local(tensor: Tensor) -> Tensor:
    own_part = getattr(tensor, "to_local", None)  # of a DTensor, whose module takes long to import
    return own_part() if own_part else tensor
