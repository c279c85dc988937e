"""Samples: which ones a worker computes in each step, and what each of them weighs.

Workers with rows of their own may have labels in other proportions than the whole data set. Two remedies work on what
they draw, a third (`twinstep.programs.repartition`) on what they have.

*Resampling* draws the labels that a worker has in turn, and the rows of a label in random order, all of them before one
comes again: after any number of draws the counts of two labels differ by one at most. It corrects unequal numbers of
the labels that a worker has. It cannot draw a label that the worker lacks, nor make different workers' labels alike.

*Class weights* multiply the loss of each sample of label c by

    v_c = (p_c / q_c) / P        P = sum of p_c over the labels that the worker has

where p_c is the share of c in the whole data set and q_c its share on the worker. The mean weight of the worker's rows
is sum q_c v_c = 1. The expected gradient is sum (p_c / P) g_c, g_c being the mean gradient of the worker's rows of
label c; where no label is missing, P is 1, and that is the whole data set's mixture. What is missing stays missing, and
rare labels count by few samples: the variance of the gradient grows with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinstep.kernels import ELEMENT_BYTES
from twinstep.learning.data import DataSet, Floats, Labels, data_of, drawn, labels_of
from twinstep.plan import Plan
from twinstep.workloads import LinearRegression
from twinstep.workloads.mlp import DIGITS_PIXELS

Rows = NDArray[np.int64]
SAMPLE_BYTES = ELEMENT_BYTES * (DIGITS_PIXELS + 1)
"""What a digit takes that is sent: its pixels and its label, in single precision."""


@dataclass(frozen=True, eq=False, slots=True)
class Share:
    """What a worker has of the samples."""

    batch: range
    """Its places in each global batch: as many samples as it computes."""
    rows: Rows | None = None
    """The rows of the data set that are its own; None where every batch is cut anew."""
    sent: Mapping[int, Rows] = field(default_factory=dict)
    """The rows that it gives to each other worker before the first step."""
    received: Mapping[int, Rows] = field(default_factory=dict)
    """Those of its own rows that it gets from each other worker before the first step."""

    def __len__(self) -> int:
        """Count the samples of a step."""
        return len(self.batch)


class Samples:
    """A worker's share of each global batch.

    Linear regression has all its rows in every step. Other workloads draw samples without replacement, from the whole
    data set in an order that is the same on every rank, or each worker from its own rows, or these rows label by label.
    """

    def __init__(self, plan: Plan, rank: int, share: Share) -> None:
        self._data = data = data_of(plan.training)
        self._share = share
        self._seed = plan.run.seed
        self._rank = rank
        self.are_the_same_in_every_step = isinstance(plan.training, LinearRegression)
        remedy = plan.partition.remedy
        self._classes: list[Rows] | None = None
        self._class_weights: Floats | None = None
        if remedy == "resample" and share.rows is not None:
            self._classes = _rows_by_class(labels_of(plan.training), share.rows)
        if remedy == "class_weights":
            labels = labels_of(plan.training)
            self._class_weights = class_weights(labels, labels[share.rows])
        self._sent = {peer: _packed(data, rows) for peer, rows in share.sent.items()}
        self._received = {peer: np.zeros_like(_packed(data, rows)) for peer, rows in share.received.items()}
        if share.received:
            self.take()

    def __len__(self) -> int:
        """Count the samples of a step."""
        return len(self._share)

    def of(self, step: int) -> DataSet:
        """Give the samples of a step."""
        rows = self._rows(step)
        return DataSet(self._data.inputs[rows], self._data.targets[rows])

    def weights(self, samples: DataSet) -> Floats | None:
        """Give what each of some samples weighs (samples,); None where all weigh 1."""
        return None if self._class_weights is None else self._class_weights[samples.targets]

    def sent(self, peer: int) -> Floats:
        """Give the array (rows, pixels and label) of the samples that another worker gets."""
        return self._sent[peer]

    def received(self, peer: int) -> Floats:
        """Give the array (rows, pixels and label) that another worker's samples are received into."""
        return self._received[peer]

    def take(self) -> None:
        """Go on with what has come from other workers; until then these samples are zeros."""
        self._data = DataSet(self._data.inputs.copy(), self._data.targets.copy())
        for peer, rows in self._share.received.items():
            self._data.inputs[rows] = self._received[peer][:, :-1]
            self._data.targets[rows] = self._received[peer][:, -1]

    def _rows(self, step: int) -> Rows:
        share = self._share
        places = np.arange(share.batch.start, share.batch.stop)
        if self._classes is not None:
            return self._in_turn(step, self._classes)
        if self.are_the_same_in_every_step:
            return places if share.rows is None else share.rows
        if share.rows is None:
            return drawn(len(self._data.inputs), self._seed, step)[places]
        return share.rows[drawn(len(share.rows), self._seed, step, self._rank)[: len(share)]]

    def _in_turn(self, step: int, classes: list[Rows]) -> Rows:
        """Draw class after class, each class's rows in an order that is new whenever all have been drawn."""
        times, turns = np.divmod(np.arange(step * len(self), (step + 1) * len(self)), len(classes))
        found = np.empty(len(self), dtype=np.int64)
        for index, rows in enumerate(classes):
            is_its_turn = turns == index
            rounds, places = np.divmod(times[is_its_turn], len(rows))
            orders = {each: drawn(len(rows), self._seed, each, self._rank, index) for each in set(rounds.tolist())}
            found[is_its_turn] = [rows[orders[each][at]] for each, at in zip(rounds.tolist(), places, strict=True)]
        return found


def whole_set(plan: Plan, rank: int, share: Share) -> DataSet | None:
    """Give the data set to the first worker where workers have rows of their own, whose losses say little of all."""
    return data_of(plan.training) if rank == 0 and share.rows is not None else None


def class_weights(whole: Labels, own: Labels) -> Floats:
    """Give what a sample of each class weighs on a worker (classes,), by the module's formula; 0 for one it lacks.

    >>> class_weights(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1, 1])).tolist()
    [2.5, 0.625]
    """
    classes = int(whole.max()) + 1
    global_share = np.bincount(whole, minlength=classes) / len(whole)
    local_share = np.bincount(own, minlength=classes) / len(own)
    present = local_share > 0
    found = np.zeros(classes, np.float32)
    found[present] = global_share[present] / local_share[present] / global_share[present].sum()
    return found


def _rows_by_class(targets: Labels, rows: Rows) -> list[Rows]:
    """List those of some rows that belong to each class, class by class."""
    labels = targets[rows]
    return [rows[labels == each] for each in np.unique(labels)]


def _packed(data: DataSet, rows: Rows) -> Floats:
    return np.column_stack([data.inputs[rows], data.targets[rows]]).astype(np.float32)
