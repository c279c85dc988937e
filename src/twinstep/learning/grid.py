"""What a rank of a grid regression holds: some rows and columns of the data, and the weights of these columns."""

from __future__ import annotations

import numpy as np

from twinstep.learning.data import DataSet, Floats
from twinstep.learning.models import losses_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples, Share
from twinstep.plan import Plan
from twinstep.workloads import Regression


class GridLearner:
    """What the program of such a rank needs; this one learns nothing, so sums have no contents."""

    def products(self) -> Floats | None:
        """Give the array (samples, outputs) of products, summed over the ranks that share the samples."""

    def gradients(self) -> Floats | None:
        """Give the array (weights,) of gradients, which is summed over the ranks that share the features."""

    def multiply(self, step: int) -> None:
        """Multiply the rank's features of the step's samples by their weights."""

    def differentiate(self) -> float | None:
        """Make gradients of the summed products; give the mean loss of the rank's samples."""

    def update(self) -> None:
        """Apply the summed gradients."""


class _Grid(GridLearner):
    def __init__(self, plan: Plan, row: int, share: Share, columns: range, workload: Regression) -> None:
        self._samples = Samples(plan, row, share)
        self._columns = columns
        self._losses = losses_of(workload)
        self._batch = np.float32(workload.samples)
        self._weights = np.zeros((workload.outputs, len(columns) + (columns.start == 0)), np.float32)
        self._updates = Updates(workload.optimizer, self._weights.size)
        self._products = np.zeros((len(share), workload.outputs), np.float32)
        self._gradients = np.zeros_like(self._weights)
        self._inputs, self._targets = self._cut(0)

    def products(self) -> Floats:
        return self._products

    def gradients(self) -> Floats:
        return self._gradients

    def multiply(self, step: int) -> None:
        if step and not self._samples.are_the_same_in_every_step:
            self._inputs, self._targets = self._cut(step)
        self._products[:] = self._inputs @ self._weights.T

    def differentiate(self) -> float:
        losses, slope = self._losses(self._products, self._targets)
        self._gradients[:] = slope.T @ self._inputs / self._batch
        return float(losses.mean(dtype=np.float64))

    def update(self) -> None:
        self._updates.apply(self._weights.ravel(), self._gradients.ravel())

    def _cut(self, step: int) -> DataSet:
        """Give the rank's columns of the step's samples, with ones for the bias after the first columns."""
        samples = self._samples.of(step)
        inputs = samples.inputs[:, self._columns.start : self._columns.stop]
        if self._columns.start == 0:
            inputs = np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)
        return DataSet(np.ascontiguousarray(inputs), samples.targets)


def grid_learner(plan: Plan, row: int, share: Share, columns: range, workload: Regression) -> GridLearner:
    """Give the learner of a rank in a row of the grid, with a share of the samples and a range of the features."""
    return _Grid(plan, row, share, columns, workload) if plan.run.learning else GridLearner()
