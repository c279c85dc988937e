"""What a rank of data parallelism holds: the parameters, and their gradients in the order of the buckets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinstep.learning.codecs import Payload, Place, codec
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.learning.samples import Samples, Share
from twinstep.plan import Plan
from twinstep.workloads import Parameter

Buckets = Sequence[Sequence[Parameter]]
"""Which parameters' gradients travel together."""


class ReplicaLearner:
    """What the program of such a rank needs; this one learns nothing, so what it sends has no contents."""

    def learn(self, step: int) -> float | None:
        """Compute the gradients of a step; give the mean loss of the rank's samples."""

    def contents(self, bucket: int, number: int) -> Payload | None:
        """Give the array that is summed or gathered in a round of a bucket."""

    def encode(self, bucket: int, number: int, step: int) -> None:
        """Fill the array of a round."""

    def decode(self, bucket: int, step: int) -> None:
        """Make the sum of the gradients of what the rounds have left."""

    def update(self) -> None:
        """Apply the sum of the gradients."""


class _Replica(ReplicaLearner):
    def __init__(self, plan: Plan, rank: int, share: Share, buckets: Buckets, order: Sequence[Parameter]) -> None:
        workload = plan.training
        self._batch = np.float32(workload.samples)
        self._samples = Samples(plan, rank, share)
        self._model = layers_of(workload)  # type: ignore[arg-type]
        self._values = self._model.initial(plan.run.seed)
        self._updates = Updates(workload.optimizer, self._model.elements)
        self._summed = np.zeros_like(self._values)
        starts = np.cumsum([0, *(parameter.elements for parameter in order)]).tolist()
        place_of = dict(zip(order, starts, strict=False))
        self._rows = [
            np.concatenate([np.arange(place_of[p], place_of[p] + p.elements) for p in bucket]) for bucket in buckets
        ]
        self._codecs = [
            codec(plan.sync.compression, [p.shape for p in bucket], Place(plan.ranks, rank, (plan.run.seed, index)))
            for index, bucket in enumerate(buckets)
        ]

    def learn(self, step: int) -> float:
        loss, gradient = self._model.gradient(self._values, self._samples.of(step))
        gradient /= self._batch
        for rows, each in zip(self._rows, self._codecs, strict=True):
            each.gradient[:] = gradient[rows]
        return loss / len(self._samples)

    def contents(self, bucket: int, number: int) -> Payload:
        return self._codecs[bucket].payloads[number]

    def encode(self, bucket: int, number: int, step: int) -> None:
        self._codecs[bucket].encode(number, step)

    def decode(self, bucket: int, step: int) -> None:
        self._codecs[bucket].decode(step)

    def update(self) -> None:
        for rows, each in zip(self._rows, self._codecs, strict=True):
            self._summed[rows] = each.gradient
        self._updates.apply(self._values, self._summed)


def replica_learner(
    plan: Plan, rank: int, share: Share, buckets: Buckets, order: Sequence[Parameter]
) -> ReplicaLearner:
    """Give the learner of a rank; `order` is that of all parameters in the model."""
    return _Replica(plan, rank, share, buckets, order) if plan.run.learning else ReplicaLearner()
