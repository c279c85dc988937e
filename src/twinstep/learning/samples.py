"""Samples: which ones a worker computes in each step, as in the executor's real training."""

from __future__ import annotations

import numpy as np

from twinstep.learning.data import DataSet, diabetes, digits, drawn
from twinstep.plan import Plan
from twinstep.workloads import Gpt, LinearRegression


class Samples:
    """A worker's shard of each global batch."""

    def __init__(self, plan: Plan, shard: range) -> None:
        workload = plan.training
        if isinstance(workload, Gpt):
            raise TypeError("a GPT does not learn where compute is emulated")
        is_linear = isinstance(workload, LinearRegression)
        self._data = diabetes(workload.polynomial_degree) if isinstance(workload, LinearRegression) else digits()
        self._shard = np.arange(shard.start, shard.stop)
        self._seed = None if is_linear else plan.run.seed

    def __len__(self) -> int:
        """Count the samples of a step."""
        return len(self._shard)

    def of(self, step: int) -> DataSet:
        """Give the samples of a step; linear regression has the same in every step."""
        rows = self._shard if self._seed is None else drawn(len(self._data.inputs), self._seed, step)[self._shard]
        return DataSet(self._data.inputs[rows], self._data.targets[rows])
