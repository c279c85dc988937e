"""Learners: what a worker and a parameter server hold while a program trains for real.

A program asks its learner for the arrays that its messages carry, and tells it when to compute. One that does not train
has a learner without arrays, whose messages have no contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from twinstep.learning.codecs import Message, Payload, Place, codec
from twinstep.learning.data import Floats
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples, Share, whole_set
from twinstep.plan import Plan

Keys = Sequence[Sequence[range]]
"""For each server, the ranges of parameters that it has."""


class WorkerLearner:
    """What a worker's program needs; this one learns nothing, so messages have no contents."""

    samples: Samples | None = None

    def parameters(self, server: int) -> Floats | None:
        """Give the array that a server's parameters are received into."""

    def gradients(self, server: int) -> Payload | None:
        """Give the array of what is sent of the gradients to a server."""

    def learn(self, step: int) -> float | None:
        """Compute the gradients of a step; give the mean loss of its samples."""

    def evaluate(self) -> float | None:
        """Give the mean loss of all samples with the worker's parameters, where it is the one to do so."""


class ServerLearner:
    """What a server's program needs; this one learns nothing."""

    def received(self, worker: int) -> Payload | None:
        """Give the array that a worker's message is received into."""

    def answer(self, worker: int) -> Floats | None:
        """Give the array of the parameters that are sent to a worker."""

    def decode(self, worker: int, step: int) -> None:
        """Make gradients of a worker's message of a step."""

    def combined(self, workers: Sequence[int]) -> Floats | None:
        """Give the sum of some workers' gradients, or where a round lacks some, their mean times all workers."""

    def copied(self) -> Floats | None:
        """Give an array that a copy of such a gradient is received into."""

    def apply(self, gradient: Floats | None) -> None:
        """Apply such a gradient."""

    def prepare(self, worker: int) -> None:
        """Copy the parameters for a worker."""


class _Worker(WorkerLearner):
    """A worker's copy of the parameters, and its gradients, each in the order of the servers' keys."""

    samples: Samples

    def __init__(self, plan: Plan, rank: int, share: Share, keys: Keys) -> None:
        workload = plan.training
        self._batch = np.float32(workload.samples)
        self.samples = Samples(plan, rank, share)
        self._whole = whole_set(plan, rank, share)
        self._model = layers_of(workload)  # type: ignore[arg-type]
        self._order = order_of(keys)
        bounds = np.cumsum([0, *(sum(map(len, ranges)) for ranges in keys)])
        self._parts = [slice(start, end) for start, end in pairwise(bounds.tolist())]
        self._values = self._model.initial(plan.run.seed)[self._order]
        self._messages = [_message(plan, server, part.stop - part.start) for server, part in enumerate(self._parts)]

    def parameters(self, server: int) -> Floats:
        return self._values[self._parts[server]]

    def gradients(self, server: int) -> Payload:
        return self._messages[server].contents

    def learn(self, step: int) -> float:
        samples = self.samples.of(step)
        loss, gradient = self._model.gradient(self._ordered(), samples, self.samples.weights(samples))
        ordered = gradient[self._order] / self._batch
        for part, message in zip(self._parts, self._messages, strict=True):
            if len(message.gradient):
                message.gradient[:] = ordered[part]
                message.encode(step)
        return loss / len(self.samples)

    def evaluate(self) -> float | None:
        return self._model.loss(self._ordered(), self._whole) if self._whole else None

    def _ordered(self) -> Floats:
        """Give the parameters in the order of the model."""
        values = np.empty_like(self._values)
        values[self._order] = self._values
        return values


class _Server(ServerLearner):
    """A server's part of the parameters."""

    def __init__(self, plan: Plan, server: int, keys: Keys) -> None:
        model = layers_of(plan.training)  # type: ignore[arg-type]
        self._values = model.initial(plan.run.seed)[order_of([keys[server]])]
        self._updates = Updates(plan.training.optimizer, len(self._values))
        self._workers = plan.workers if plan.sync.mode == "bulk_synchronous" else 1
        self._received = [_message(plan, server, len(self._values)) for _ in range(plan.workers)]
        self._answers = [np.zeros_like(self._values) for _ in range(plan.workers)]

    def received(self, worker: int) -> Payload:
        return self._received[worker].contents

    def answer(self, worker: int) -> Floats:
        return self._answers[worker]

    def decode(self, worker: int, step: int) -> None:
        self._received[worker].decode(step)

    def combined(self, workers: Sequence[int]) -> Floats:
        gradient: Floats = np.sum([self._received[each].gradient for each in workers], axis=0)
        return gradient * np.float32(self._workers / len(workers))

    def copied(self) -> Floats:
        return np.zeros_like(self._values)

    def apply(self, gradient: Floats | None) -> None:
        if gradient is not None:
            self._updates.apply(self._values, gradient)

    def prepare(self, worker: int) -> None:
        self._answers[worker][:] = self._values


def _message(plan: Plan, server: int, elements: int) -> Message:
    """Give a worker's message to a server, as either of them has it."""
    return Message(codec(plan.sync.compression, [(elements,)], Place(1, 0, (plan.run.seed, server))))


def worker_learner(plan: Plan, rank: int, share: Share, keys: Keys) -> WorkerLearner:
    """Give the learner of a worker with its share of the samples."""
    return _Worker(plan, rank, share, keys) if plan.run.learning else WorkerLearner()


def server_learner(plan: Plan, server: int, keys: Keys) -> ServerLearner:
    """Give the learner of a server, counted from 0."""
    return _Server(plan, server, keys) if plan.run.learning else ServerLearner()


def order_of(keys: Keys) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Give the indices of all parameters, server by server."""
    parts = [np.arange(part.start, part.stop) for ranges in keys for part in ranges]
    return np.concatenate([np.zeros(0, np.int64), *parts])
