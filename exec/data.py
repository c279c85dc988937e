"""Real data that comes with a package or with Python itself, as tensors.

A batch is drawn by (seed, step), the same on every rank, and each rank takes its shard of it.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from twinstep.learning.data import DataSet, diabetes, digits, drawn
from twinstep.plan import Plan
from twinstep.workloads import Gpt, LinearRegression, LogisticRegression, Mlp

TEXT_BYTES = 4 * 2**20


class Batches(Protocol):
    """A data set that gives each step its batch."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Give this rank's inputs and targets of a step."""
        ...


class WholeSet:
    """The rank's shard of the whole data set, in every step."""

    def __init__(self, inputs: Tensor, targets: Tensor, shard: range) -> None:
        self._batch = inputs[shard.start : shard.stop], targets[shard.start : shard.stop]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Give the shard; it does not depend on the step."""
        return self._batch


class Samples:
    """Samples drawn without replacement within a step."""

    def __init__(self, inputs: Tensor, targets: Tensor, shard: range, seed: int) -> None:
        self._inputs, self._targets = inputs, targets
        self._shard = shard
        self._seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Give the rank's samples of the step's permutation."""
        order = drawn(len(self._inputs), self._seed, step)
        chosen = torch.from_numpy(order[self._shard.start : self._shard.stop])
        return self._inputs[chosen], self._targets[chosen]


class Windows:
    """Windows of a text at random offsets; the target of each token is the next one."""

    def __init__(self, tokens: Tensor, context: int, samples: int, shard: range, seed: int) -> None:
        self._windows = tokens.unfold(0, context + 1, 1)
        self._samples = samples
        self._shard = shard
        self._seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Give the rank's windows of the step."""
        offsets = np.random.default_rng((self._seed, step)).integers(len(self._windows), size=self._samples)
        windows = self._windows[torch.from_numpy(offsets[self._shard.start : self._shard.stop])].long()
        return windows[:, :-1], windows[:, 1:]


def batches(plan: Plan, shard: range) -> Batches:
    """Open the plan's data set for a rank that holds `shard` of each global batch."""
    workload = plan.training
    match workload:
        case LinearRegression():
            return WholeSet(*_tensors(diabetes(workload.polynomial_degree)), shard)
        case LogisticRegression() | Mlp():
            return Samples(*_tensors(digits()), shard, plan.run.seed)
        case Gpt():
            return Windows(standard_library_text(), workload.context, workload.batch, shard, plan.run.seed)


def _tensors(found: DataSet) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(found.inputs), torch.from_numpy(found.targets)


def standard_library_text() -> Tensor:
    """Load the first 4 MiB of the Python standard library's own sources, in the order of their paths, as bytes (t,)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = bytearray()
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if "site-packages" not in path.parts:
            text += path.read_bytes()
        if len(text) >= TEXT_BYTES:
            break
    return torch.frombuffer(text[:TEXT_BYTES], dtype=torch.uint8)
