"""Sparse keys: workers and servers that exchange only those parameters that a batch touches.

A batch touches the weights of the features that occur in its rows, and the bias. Whatever else a worker has would be of
no use to it, so it has nothing else: the model of a batch has as many columns as the batch touches. The parameters that
the next batch touches are asked for with the gradients of this one.

    push    step, pairs that follow, their keys, their gradients, keys that are wanted
    answer  step of the push, values that follow, the values of those keys

All are float32, keys included: float32 has every whole number up to 2^24, and there are 2^22 + 1 keys at the most.
Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import RunError
from twinstep.learning.data import CsrRows, DataSet, Floats
from twinstep.learning.learners import Keys, ServerLearner, WorkerLearner, order_of
from twinstep.learning.models import layers_of
from twinstep.learning.samples import Samples, Share
from twinstep.plan import Plan

Ints = NDArray[np.int64]

HEADER = 2
"""Elements at the beginning of a message."""


def touched(rows: CsrRows) -> Ints:
    """Give the parameters that some rows touch, in order; the last one is the bias.

    >>> from scipy.sparse import csr_array
    >>> touched(csr_array([[0, 0.5, 0], [0, 0.5, 0]])).tolist()
    [1, 3]
    """
    return np.append(np.unique(rows.indices), rows.shape[1])


def server_of(keys: Keys) -> Ints:
    """Give the server of every parameter (elements,)."""
    found = np.empty(sum(len(part) for ranges in keys for part in ranges), np.int64)
    for server, ranges in enumerate(keys):
        for part in ranges:
            found[part.start : part.stop] = server
    return found


def without_empty_columns(samples: DataSet, keys: Ints) -> DataSet:
    """Leave out of samples all columns but those of the keys that they touch."""
    from scipy.sparse import csr_array

    rows: CsrRows = samples.inputs
    columns = np.searchsorted(keys, rows.indices)
    shape = (rows.shape[0], len(keys) - 1)
    return DataSet(csr_array((rows.data, columns, rows.indptr), shape=shape), samples.targets)


class _Worker(WorkerLearner):
    """A worker that has the parameters of one batch at a time."""

    samples: Samples

    def __init__(self, plan: Plan, rank: int, share: Share, keys: Keys) -> None:
        self._batch = np.float32(plan.training.samples)
        self._steps = plan.total_steps
        self.samples = Samples(plan, rank, share)
        self._model = layers_of(plan.training)  # type: ignore[arg-type]
        self._initial = self._model.initial(plan.run.seed)
        self._servers = server_of(keys)
        self._parts = [server for server, ranges in enumerate(keys) if ranges]
        self._next = self._drawn(0)
        self._pushes: dict[int, Floats] = {}
        self._answers: dict[int, Floats] = {}

    def parameters(self, server: int) -> Floats | None:
        return self._answers.get(server)

    def gradients(self, server: int) -> Floats | None:
        return self._pushes.get(server)

    def learn(self, step: int) -> float:
        keys, samples = self._next
        loss, gradient = self._model.gradient(self._pulled(step, keys), without_empty_columns(samples, keys))
        gradient /= self._batch
        self._next = wanted, _ = self._drawn(step + 1)
        for server in self._parts:
            own, asked = self._servers[keys] == server, wanted[self._servers[wanted] == server]
            header = [step, np.count_nonzero(own)]
            self._pushes[server] = np.concatenate([header, keys[own], gradient[own], asked]).astype(np.float32)
            self._answers[server] = np.zeros(HEADER + len(asked), np.float32)
        return loss / len(self.samples)

    def _drawn(self, step: int) -> tuple[Ints, DataSet]:
        """Give the keys and the samples of a step; none after the last."""
        samples = self.samples.of(step)
        return (touched(samples.inputs) if step < self._steps else np.zeros(0, np.int64)), samples

    def _pulled(self, step: int, keys: Ints) -> Floats:
        """Give the values of the keys that were asked for. Raises RunError where those of another step have come."""
        if step == 0:
            return self._initial[keys]
        values = np.empty(len(keys), np.float32)
        for server, answer in self._answers.items():
            if answer[0] != step - 1:
                raise RunError(f"parameters for step {answer[0] + 1:.0f} have come where step {step} begins")
            values[self._servers[keys] == server] = answer[HEADER:]
        return values


class _Server(ServerLearner):
    """A server's part of the parameters; gradients are a row of positions and one of values."""

    def __init__(self, plan: Plan, server: int, keys: Keys, pushed: Callable[[int, int], int]) -> None:
        """Expect of a worker in a step as many bytes as `pushed` says."""
        self._keys = order_of([keys[server]])
        self._values = layers_of(plan.training).initial(plan.run.seed)[self._keys]  # type: ignore[arg-type]
        self._rate = np.float32(plan.training.optimizer.learning_rate)
        self._workers = plan.workers if plan.sync.mode == "bulk_synchronous" else 1
        self._pushed = pushed
        self._received = [self._to_receive(worker, 0) for worker in range(plan.workers)]
        self._answers = [np.zeros(HEADER, np.float32)] * plan.workers

    def _to_receive(self, worker: int, step: int) -> Floats:
        return np.zeros(self._pushed(worker, step) // np.float32().nbytes, np.float32)

    def received(self, worker: int) -> Floats:
        return self._received[worker]

    def answer(self, worker: int) -> Floats:
        return self._answers[worker]

    def combined(self, workers: Sequence[int]) -> Floats:
        pairs = [_pairs(self._received[each]) for each in workers]
        scale = np.float32(self._workers / len(workers))
        positions = np.concatenate([self._positions(keys) for keys, _ in pairs])
        return np.stack([positions.astype(np.float32), np.concatenate([values for _, values in pairs]) * scale])

    def apply(self, gradient: Floats | None) -> None:
        if gradient is not None:
            np.subtract.at(self._values, gradient[0].astype(np.int64), self._rate * gradient[1])

    def prepare(self, worker: int) -> None:
        push = self._received[worker]
        wanted = push[HEADER + 2 * int(push[1]) :]
        header = np.array([push[0], len(wanted)], np.float32)
        self._answers[worker] = np.concatenate([header, self._values[self._positions(wanted)]])
        self._received[worker] = self._to_receive(worker, int(push[0]) + 1)

    def _positions(self, keys: Floats) -> Ints:
        """Give where the server has some keys."""
        return np.searchsorted(self._keys, keys.astype(np.int64))


def _pairs(push: Floats) -> tuple[Floats, Floats]:
    """Give the keys of a push and their gradients."""
    keys, values = push[HEADER : HEADER + 2 * int(push[1])].reshape(2, -1)
    return keys, values


def sparse_worker(plan: Plan, rank: int, share: Share, keys: Keys) -> WorkerLearner:
    """Give the learner of a worker that asks for what its batches touch."""
    return _Worker(plan, rank, share, keys) if plan.run.learning else WorkerLearner()


def sparse_server(plan: Plan, server: int, keys: Keys, pushed: Callable[[int, int], int]) -> ServerLearner:
    """Give the learner of a server, counted from 0; `pushed` are the bytes of a worker's push in a step."""
    return _Server(plan, server, keys, pushed) if plan.run.learning else ServerLearner()
