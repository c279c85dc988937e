"""Data parallelism: every rank computes its share of the batch, gradients are summed bucket by bucket.

One step of a rank, with overlap (`w` waits for buckets in the order in which they were issued):

    compute   load  forward 0 1 2  backward 2   1   0   w w  optimizer
    data                                     all_reduce 0    all_reduce 1

Without overlap each bucket is waited for as soon as it is issued. With one rank there is nothing to sum, and what is
left is sequential training: the baseline.

Each rank's loss is the sum over its samples divided by the size of the global batch, so the sum over ranks is the
gradient of the global mean also where ranks hold unequal numbers of samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from twinstep.effects import Collective, Compute, Effect, Mark, Program, Wait
from twinstep.plan import Plan
from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.placement import share_out
from twinstep.programs.strategy import EveryStepAlike
from twinstep.workloads import Model, describe

GROUP = "data"


@dataclass(frozen=True)
class DataParallel(EveryStepAlike):
    """A plan lowered to rank programs."""

    plan: Plan
    shards: tuple[range, ...] = field(init=False)
    """Which samples of each global batch a rank computes."""
    buckets: tuple[Bucket, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", tuple(share.batch for share in share_out(self.plan)))
        object.__setattr__(self, "buckets", fill_buckets(self.model(0).layers, self.plan.sync.bucket))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    def model(self, rank: int) -> Model:
        """Describe the model as a rank computes it."""
        return describe(self.plan.training, len(self.shards[rank]))

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part."""
        return self.model(rank).memory_bytes()

    def key(self, rank: int) -> Hashable:
        """Ranks with equally many samples do the same."""
        return len(self.shards[rank])

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        before, backward, after = self._phases(self.model(rank))
        overlap = self.plan.sync.overlap
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from before
            handles = []
            for effect in backward:
                result = yield effect
                if isinstance(effect, Collective):
                    if overlap:
                        handles.append(result)
                    else:
                        yield Wait(result)
            for handle in handles:
                yield Wait(handle)
            yield from after
            yield Mark("step_end", step)

    def _phases(self, model: Model) -> tuple[list[Effect], list[Effect], list[Effect]]:
        """Build the effects of a step once: before, during and after the backward pass."""
        before: list[Effect] = [Compute("load", model.load)] if model.load else []
        before += [Compute("forward", layer.forward, index) for index, layer in enumerate(model.layers)]
        backward: list[Effect] = []
        for index in reversed(range(len(model.layers))):
            backward.append(Compute("backward", model.layers[index].backward, index))
            backward += [_all_reduce(b) for b in self.buckets if b.ready_after_layer == index and self.plan.ranks > 1]
        return before, backward, [Compute("optimizer", model.optimizer)]


def _all_reduce(bucket: Bucket) -> Collective:
    return Collective("all_reduce", group=GROUP, size_bytes=bucket.size_bytes, lane=GROUP, bucket=bucket.index)
