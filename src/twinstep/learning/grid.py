"""What a rank of a grid regression holds: some rows and columns of the data, and the weights of these columns."""

from __future__ import annotations

import numpy as np

from twinstep.learning.data import Floats, data_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Share
from twinstep.plan import Plan


class GridLearner:
    """What the program of such a rank needs; this one learns nothing, so sums have no contents."""

    def products(self) -> Floats | None:
        """Give the array (samples,) of products, which is summed over the ranks that share the samples."""

    def gradients(self) -> Floats | None:
        """Give the array (weights,) of gradients, which is summed over the ranks that share the features."""

    def multiply(self) -> None:
        """Multiply the rank's features by their weights."""

    def differentiate(self) -> float | None:
        """Make gradients of the summed products; give the mean loss of the rank's samples."""

    def update(self) -> None:
        """Apply the summed gradients."""


class _Grid(GridLearner):
    def __init__(self, plan: Plan, share: Share, columns: range) -> None:
        data = data_of(plan.training)
        rows = np.arange(share.batch.start, share.batch.stop) if share.rows is None else share.rows
        inputs = data.inputs[rows][:, columns.start : columns.stop]
        if columns.start == 0:
            inputs = np.concatenate([inputs, np.ones((len(rows), 1), np.float32)], axis=1)
        self._inputs = np.ascontiguousarray(inputs)
        self._targets = data.targets[rows].ravel().astype(np.float32)
        self._weights = np.zeros(self._inputs.shape[1], np.float32)
        self._updates = Updates(plan.training.optimizer, len(self._weights))
        self._samples = np.float32(plan.training.samples)
        self._products = np.zeros(len(rows), np.float32)
        self._gradients = np.zeros_like(self._weights)

    def products(self) -> Floats:
        return self._products

    def gradients(self) -> Floats:
        return self._gradients

    def multiply(self) -> None:
        self._products[:] = self._inputs @ self._weights

    def differentiate(self) -> float:
        difference = self._products - self._targets
        self._gradients[:] = 2 * difference @ self._inputs / self._samples
        return float(np.square(difference, dtype=np.float64).mean())

    def update(self) -> None:
        self._updates.apply(self._weights, self._gradients)


def grid_learner(plan: Plan, share: Share, columns: range) -> GridLearner:
    """Give the learner of a rank with a share of the samples and a range of the features."""
    return _Grid(plan, share, columns) if plan.run.learning else GridLearner()
