"""What a worker of local SGD or gossip holds: parameters and an optimizer of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twinstep.learning.data import Floats
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples, Share, whole_set
from twinstep.plan import Plan


class LocalLearner:
    """What the program of such a worker needs; this one learns nothing, so what it sends has no contents."""

    samples: Samples | None = None

    def learn(self, step: int) -> float | None:
        """Take a step on the worker's own samples; give their mean loss before it."""

    def evaluate(self) -> float | None:
        """Give the mean loss of all samples with the worker's parameters, where it is the one to do so."""

    def offer(self) -> None:
        """Copy the parameters into what is offered to others."""

    def offered(self) -> Floats | None:
        """Give the array that is sent, or summed in place over all workers."""

    def received(self, peer: int) -> Floats | None:
        """Give the array that a neighbour's parameters are received into."""

    def average(self) -> None:
        """Go on with the average of what was agreed on."""


class _Local(LocalLearner):
    samples: Samples

    def __init__(self, plan: Plan, rank: int, share: Share, peers: Mapping[int, float]) -> None:
        self._model = layers_of(plan.training)  # type: ignore[arg-type]
        self.samples = Samples(plan, rank, share)
        self._whole = whole_set(plan, rank, share)
        self._updates = Updates(plan.training.optimizer, self._model.elements)
        self._values = self._model.initial(plan.run.seed)
        self._outer = _Outer(self._values, plan.sync.outer_momentum)
        self._offered = np.zeros_like(self._values)
        self._weights = [1 - sum(peers.values()), *peers.values()]
        self._received = {peer: np.zeros_like(self._values) for peer in peers}
        self._workers = plan.ranks if plan.sync.method == "local_sgd" else 0

    def learn(self, step: int) -> float:
        samples = self.samples.of(step)
        loss, gradient = self._model.gradient(self._values, samples, self.samples.weights(samples))
        self._updates.apply(self._values, gradient / np.float32(len(self.samples)))
        return loss / len(self.samples)

    def evaluate(self) -> float | None:
        return self._model.loss(self._values, self._whole) if self._whole else None

    def offer(self) -> None:
        self._offered[:] = self._values

    def offered(self) -> Floats:
        return self._offered

    def received(self, peer: int) -> Floats:
        return self._received[peer]

    def average(self) -> None:
        if self._workers:
            self._values[:] = self._outer.step(self._offered / np.float32(self._workers))
        else:
            known = [self._values, *self._received.values()]
            self._values[:] = np.average(known, axis=0, weights=self._weights)


class _Outer:
    """The outer optimizer: from one average towards the next, with Nesterov's momentum."""

    def __init__(self, values: Floats, momentum: float) -> None:
        self._values = values.copy()
        self._velocity = np.zeros_like(values)
        self._momentum = np.float32(momentum)

    def step(self, average: Floats) -> Floats:
        """Give the parameters to go on with; without momentum, the average itself."""
        gradient = self._values - average
        self._velocity = self._momentum * self._velocity + gradient
        self._values = self._values - (gradient + self._momentum * self._velocity)
        return self._values


def local_learner(plan: Plan, rank: int, share: Share, peers: Mapping[int, float]) -> LocalLearner:
    """Give the learner of a worker that averages with all others, or with some neighbours, whose weights are given."""
    return _Local(plan, rank, share, peers) if plan.run.learning else LocalLearner()
