"""Samples: which ones a worker computes in each step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstep.learning.data import DataSet, data_of, drawn
from twinstep.plan import Plan
from twinstep.workloads import LinearRegression

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Share:
    """What a worker has of the samples."""

    batch: range
    """Its places in each global batch: as many samples as it computes."""
    rows: Rows | None = None
    """The rows of the data set that are its own; None where every batch is cut anew."""

    def __len__(self) -> int:
        """Count the samples of a step."""
        return len(self.batch)


class Samples:
    """A worker's share of each global batch.

    Linear regression has all its rows in every step. Other workloads draw samples without replacement, from the whole
    data set in an order that is the same on every rank, or each worker from its own rows.
    """

    def __init__(self, plan: Plan, rank: int, share: Share) -> None:
        self._data = data_of(plan.training)
        self._share = share
        self._seed = plan.run.seed
        self._rank = rank
        self._whole = isinstance(plan.training, LinearRegression)

    def __len__(self) -> int:
        """Count the samples of a step."""
        return len(self._share)

    def of(self, step: int) -> DataSet:
        """Give the samples of a step."""
        rows = self._rows(step)
        return DataSet(self._data.inputs[rows], self._data.targets[rows])

    def _rows(self, step: int) -> Rows:
        share = self._share
        places = np.arange(share.batch.start, share.batch.stop)
        if self._whole:
            return places if share.rows is None else share.rows
        if share.rows is None:
            return drawn(len(self._data.inputs), self._seed, step)[places]
        return share.rows[drawn(len(share.rows), self._seed, step, self._rank)[: len(share)]]
