"""What the workers of one host share, and what each of them does with it.

Everything shared lies in anonymous memory, which this process shares with all that are forked from it; the simulator's
workers are in one process anyway. Nothing is locked: two updates at the same moment may lose a part of one of them.
"""

from __future__ import annotations

import mmap
from functools import cached_property

import numpy as np

from twinstep.kernels import ELEMENT_BYTES
from twinstep.learning.data import Floats
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples, Share
from twinstep.plan import Plan

_COUNT_BYTES = 8


class Shared:
    """The parameters that all workers read and update, and how often each of them has.

    Whatever is not made before a fork is not shared with those that were forked.
    """

    def __init__(self, plan: Plan, elements: int) -> None:
        """Share `elements` parameters among the plan's workers."""
        self._plan = plan
        self._elements = elements

    def make(self) -> None:
        """Make all of it now, for processes that will be forked."""
        _ = self._updates, self.parameters

    @cached_property
    def parameters(self) -> Floats:
        """Give the parameters (elements,): initial ones where the plan is learnt, else zeros."""
        values = np.frombuffer(mmap.mmap(-1, self._elements * ELEMENT_BYTES), np.float32)
        if self._plan.run.learning:
            values[:] = layers_of(self._plan.training).initial(self._plan.run.seed)  # type: ignore[arg-type]
        return values

    @cached_property
    def _updates(self) -> memoryview[int]:
        """Give the number of updates by worker, each of whom writes its own alone."""
        return memoryview(mmap.mmap(-1, self._plan.workers * _COUNT_BYTES)).cast("q")

    def count_update(self, worker: int) -> None:
        """Note that a worker has updated the parameters."""
        self._updates[worker] += 1

    def updates_of_others(self, worker: int) -> int:
        """Count the updates of all workers but one."""
        return sum(self._updates) - self._updates[worker]


class SharedLearner:
    """What the program of such a worker needs; this one learns nothing."""

    def read(self) -> None:
        """Copy the shared parameters as they are now."""

    def learn(self, step: int) -> float | None:
        """Compute the gradient of a step from what was read; give the mean loss of its samples."""

    def update(self) -> None:
        """Apply the gradient to the shared parameters as they are now."""


class _Shared(SharedLearner):
    def __init__(self, plan: Plan, rank: int, share: Share, shared: Shared) -> None:
        self._batch = np.float32(plan.training.samples)
        self._samples = Samples(plan, rank, share)
        self._model = layers_of(plan.training)  # type: ignore[arg-type]
        self._updates = Updates(plan.training.optimizer, self._model.elements)
        self._parameters = shared.parameters
        self._values = np.zeros_like(self._parameters)
        self._gradient = self._values

    def read(self) -> None:
        self._values[:] = self._parameters

    def learn(self, step: int) -> float:
        loss, gradient = self._model.gradient(self._values, self._samples.of(step))
        self._gradient = gradient / self._batch
        return loss / len(self._samples)

    def update(self) -> None:
        self._updates.apply(self._parameters, self._gradient)


def shared_learner(plan: Plan, rank: int, share: Share, shared: Shared) -> SharedLearner:
    """Give the learner of a worker with its share of the samples."""
    return _Shared(plan, rank, share, shared) if plan.run.learning else SharedLearner()
