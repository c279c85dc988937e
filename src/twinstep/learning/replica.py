"""What a rank of data parallelism holds: the parameters, and their gradients in the order of the buckets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

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
    """What the program of such a rank needs; this one learns nothing, so what it sends has no contents.

    To decode and to apply what came takes real time. The modelled time of that is short, so it is put off until the
    next step, where it passes while the device computes.
    """

    def learn(self, step: int) -> float | None:
        """Apply what came in the step before, and compute the gradients of this one; give its samples' mean loss."""

    def contents(self, bucket: int, number: int) -> Payload | None:
        """Give the array that is summed or gathered in a round of a bucket."""

    def encode(self, bucket: int, number: int, step: int) -> None:
        """Fill the array of a round."""

    def update(self, step: int) -> None:
        """Apply what came in a step, the last one, which no other follows."""


class _Replica(ReplicaLearner):
    def __init__(self, plan: Plan, rank: int, share: Share, buckets: Buckets, order: Sequence[Parameter]) -> None:
        workload = plan.training
        self._batch = np.float32(workload.samples)
        self._samples = Samples(plan, rank, share)
        self._model = layers_of(workload)  # type: ignore[arg-type]
        self._values = self._model.initial(plan.run.seed)
        self._updates = Updates(workload.optimizer, self._model.elements)
        self._summed = np.zeros_like(self._values)
        self._places = [_places(bucket, order) for bucket in buckets]
        self._codecs = [
            codec(plan.sync.compression, [p.shape for p in bucket], Place(plan.ranks, rank, (plan.run.seed, index)))
            for index, bucket in enumerate(buckets)
        ]

    def learn(self, step: int) -> float:
        if step:
            self.update(step - 1)
        loss, gradient = self._model.gradient(self._values, self._samples.of(step))
        gradient /= self._batch
        for places, each in zip(self._places, self._codecs, strict=True):
            for in_bucket, in_model in places:
                each.gradient[in_bucket] = gradient[in_model]
        return loss / len(self._samples)

    def contents(self, bucket: int, number: int) -> Payload:
        return self._codecs[bucket].payloads[number]

    def encode(self, bucket: int, number: int, step: int) -> None:
        self._codecs[bucket].encode(number, step)

    def update(self, step: int) -> None:
        for places, each in zip(self._places, self._codecs, strict=True):
            each.decode(step)
            for in_bucket, in_model in places:
                self._summed[in_model] = each.gradient[in_bucket]
        self._updates.apply(self._values, self._summed)


def _places(bucket: Sequence[Parameter], order: Sequence[Parameter]) -> list[tuple[slice, slice]]:
    """List where each parameter lies in a bucket, and where in the model."""
    ends = list(accumulate(parameter.elements for parameter in order))
    in_model = {p: slice(end - p.elements, end) for p, end in zip(order, ends, strict=True)}
    ends = list(accumulate(parameter.elements for parameter in bucket))
    return [(slice(end - p.elements, end), in_model[p]) for p, end in zip(bucket, ends, strict=True)]


def replica_learner(
    plan: Plan, rank: int, share: Share, buckets: Buckets, order: Sequence[Parameter]
) -> ReplicaLearner:
    """Give the learner of a rank; `order` is that of all parameters in the model."""
    return _Replica(plan, rank, share, buckets, order) if plan.run.learning else ReplicaLearner()
