"""Grid regression: linear or logistic regression whose features are shared out, too.

Of a grid of d x f ranks, rank i f + j has the samples of row i and the features of column j, with their weights. One
step of a rank (`w` waits):

    compute    load  forward          w  forward (loss)  backward           w  optimizer
    features                 all_reduce partial products
    data                                                         all_reduce gradients

A linear regression has one output and nothing to load, a logistic one has c classes: its partial logits are summed
before the softmax. Partial products of m samples are summed over the f ranks that share them (4 m c bytes), gradients
of k features over the d ranks that share those (4 k c bytes). One row is vertical partitioning, one column horizontal.
The bias belongs to the first column.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from twinstep.effects import Collective, Compute, Mark, Program, Wait
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.learning import Share, grid_learner
from twinstep.plan import Plan
from twinstep.programs.groups import Groups
from twinstep.programs.passes import learnt
from twinstep.programs.placement import shards, share_out
from twinstep.programs.strategy import Defaults
from twinstep.workloads import LinearRegression, Regression

FEATURES, DATA = "features", "data"


class _Computations(NamedTuple):
    """What a rank computes in a step."""

    load: list[Compute]
    """One, or none where the samples are the same in every step."""
    forward: Compute
    loss: Compute
    backward: Compute
    optimizer: Compute


@dataclass(frozen=True)
class GridRegression(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    workload: Regression
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a row of the grid has."""
    columns: tuple[range, ...] = field(init=False)
    """Which features a column of the grid has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))
        object.__setattr__(self, "columns", shards(self.workload.features, self.plan.partition.features))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the rows and the columns of the grid, where there are several ranks in them."""
        grid = np.arange(self.plan.ranks).reshape(-1, self.plan.partition.features)
        found = {FEATURES: grid, DATA: grid.T}
        return {kind: Groups(kind, ranks) for kind, ranks in found.items() if ranks.shape[1] > 1}

    def key(self, rank: int) -> Hashable:
        """Ranks with as many samples and features do the same."""
        return len(self._share(rank)), self._weights(rank), self._column(rank) == 0

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part."""
        weights = ELEMENT_BYTES * self._weights(rank)
        columns = len(self.columns[self._column(rank)]) + 1 + self.workload.outputs
        samples = ELEMENT_BYTES * len(self._share(rank)) * columns
        parts = {"parameters": weights, "gradients": weights, "samples": samples}
        return parts | {"total": sum(parts.values())}

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        samples, columns = len(self._share(rank)), self.columns[self._column(rank)]
        outputs = self.workload.outputs
        row = rank // self.plan.partition.features
        learner = grid_learner(self.plan, row, self._share(rank), columns, self.workload)
        load, forward, loss, backward, optimizer = self._computations(samples, len(columns), self._weights(rank))
        products = Collective(
            "all_reduce",
            FEATURES,
            ELEMENT_BYTES * samples * outputs,
            FEATURES,
            during="forward",
            contents=learner.products(),
        )
        gradients = Collective(
            "all_reduce", DATA, ELEMENT_BYTES * self._weights(rank), DATA, contents=learner.gradients()
        )
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from load
            yield forward
            yield from learnt(self.plan, partial(learner.multiply, step))
            yield from self._summed(products)
            yield from learnt(self.plan, learner.differentiate)
            yield loss
            yield backward
            yield from self._summed(gradients)
            learner.update()
            yield optimizer
            yield Mark("step_end", step)

    def _computations(self, samples: int, features: int, weights: int) -> _Computations:
        """Describe what a rank computes in a step."""
        outputs = self.workload.outputs
        product = (samples, features, outputs)
        is_linear = isinstance(self.workload, LinearRegression)
        kind = "squared_error" if is_linear else "cross_entropy"
        shape = (samples,) if is_linear else (samples, outputs)
        load = [] if is_linear else [Compute("load", (Kernel("gather_rows", (samples, features)),))]
        slopes = (Kernel(f"{kind}_backward", shape), Kernel("linear_weight_backward", product))
        return _Computations(
            load,
            forward=Compute("forward", (Kernel("linear_forward", product),), layer=0),
            loss=Compute("forward", (Kernel(f"{kind}_forward", shape),), layer=1),
            backward=Compute("backward", (Kernel("backward_call", ()), *slopes), layer=0),
            optimizer=Compute("optimizer", (Kernel(self.workload.optimizer.kind, (weights, 1)),)),
        )

    def _summed(self, effect: Collective) -> Program:
        """Sum over the group, where there is one."""
        if effect.group in self.groups:
            handle = yield effect
            yield Wait(handle)

    def _column(self, rank: int) -> int:
        return rank % self.plan.partition.features

    def _share(self, rank: int) -> Share:
        return self.shares[rank // self.plan.partition.features]

    def _weights(self, rank: int) -> int:
        return self.workload.outputs * (len(self.columns[self._column(rank)]) + (self._column(rank) == 0))
