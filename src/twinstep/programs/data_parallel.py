"""Data parallelism: every rank computes its share of the batch, gradients are summed bucket by bucket.

One step of a rank, with overlap (`w` waits for buckets in the order in which they were issued):

    compute   load  forward 0 1 2  backward 2   1   0   w w  optimizer
    data                                     all_reduce 0    all_reduce 1

With `sync.compression` a bucket is encoded before it is issued, and decoded when it has arrived; where that takes
several rounds, all buckets do one round after another, as soon as the backward pass is over:

    compute   backward 2  encode 0  backward 1 0  encode 1  w  encode 0  w  encode 1  w  decode 0  w  decode 1

Without overlap each bucket is waited for as soon as it is issued. With one rank there is nothing to sum, and what is
left is sequential training: the baseline.

Each rank's loss is the sum over its samples divided by the size of the global batch, so the sum over ranks is the
gradient of the global mean also where ranks hold unequal numbers of samples.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from twinstep.effects import Collective, Compute, Contents, Effect, Handle, Mark, Program, Wait
from twinstep.learning import ReplicaLearner, Share, replica_learner
from twinstep.plan import Plan
from twinstep.programs.accounts import replica_account
from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.dry_run import first_steps
from twinstep.programs.exchange import Exchange, Round, exchange
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.ledger import Entry, ledger, peak
from twinstep.programs.passes import learnt
from twinstep.programs.placement import share_out
from twinstep.programs.strategy import Defaults
from twinstep.workloads import Model, describe

GROUP = "data"


class _Travel(NamedTuple):
    """How one bucket travels: for each round what is computed, perhaps, and the collective; then what is decoded."""

    bucket: int
    rounds: Sequence[tuple[Sequence[Compute], Collective]]
    decode: Sequence[Compute]


class _UnderWay(NamedTuple):
    """A bucket in one of its rounds."""

    travel: _Travel
    number: int
    handle: Handle


@dataclass(frozen=True)
class DataParallel(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a rank has."""
    buckets: tuple[Bucket, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))
        object.__setattr__(self, "buckets", fill_buckets(self.model(0).layers, self.plan.sync.bucket))

    @property
    def shards(self) -> tuple[range, ...]:
        """List which samples of each global batch a rank computes."""
        return tuple(share.batch for share in self.shares)

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    def model(self, rank: int) -> Model:
        """Describe the model as a rank computes it."""
        return describe(self.plan.training, len(self.shares[rank]))

    def exchange(self, bucket: Bucket) -> Exchange:
        """Describe how a bucket travels."""
        return exchange(self.plan.sync.compression, [p.shape for p in bucket.parameters], self.plan.ranks)

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """List how all buckets travel, those of a rank in a step; nothing does among one."""
        return [self.exchange(bucket) for bucket in self.buckets if self.plan.ranks > 1]

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part: compressed, buckets have buffers beside the gradients."""
        parts = peak(self.ledger(rank)).parts()
        compression = self.plan.sync.compression
        if compression.kind == "none":
            return parts
        kept = parts["gradients"] if compression.feeds_back else 0
        parts["compression"] = kept + sum(each.size_bytes for each in self.exchanges)
        return parts | {"total": parts["total"] + parts["compression"]}

    def ledger(self, rank: int) -> Iterator[Entry]:
        """Give what a rank holds, effect by effect of a step."""
        effects = first_steps(self.outline.program(rank))
        return ledger(effects, replica_account(self.plan, self.model(rank)))

    def key(self, rank: int) -> Hashable:
        """Ranks with equally many samples do the same."""
        return len(self.shares[rank])

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        model = self.model(rank)
        parameters = [bucket.parameters for bucket in self.buckets]
        learner = replica_learner(self.plan, rank, self.shares[rank], parameters, model.parameters)
        before, backward, after = self._phases(model, learner)
        overlap = self.plan.sync.overlap
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from before
            yield from learnt(self.plan, partial(learner.learn, step))
            begun: list[_UnderWay] = []
            for compute, ready in backward:
                yield compute
                for travel in ready:
                    begun.append((yield from _begin(travel, 0, learner, step)))
                    if not overlap:
                        yield from _finish([begun.pop()], learner, step)
            yield from _finish(begun, learner, step)
            yield after
            yield Mark("step_end", step)
        learner.update(self.plan.total_steps - 1)

    def _phases(
        self, model: Model, learner: ReplicaLearner
    ) -> tuple[list[Effect], list[tuple[Compute, list[_Travel]]], Compute]:
        """Build the effects of a step once: before, during and after the backward pass."""
        before: list[Effect] = [Compute("load", model.load)] if model.load else []
        before += [Compute("forward", layer.forward, index) for index, layer in enumerate(model.layers)]
        several = self.plan.ranks > 1
        travels = [self._travel(bucket, learner) for bucket in self.buckets] if several else []
        backward = []
        for index in reversed(range(len(model.layers))):
            ready = [travel for travel in travels if self.buckets[travel.bucket].ready_after_layer == index]
            backward.append((Compute("backward", model.layers[index].backward, index), ready))
        return before, backward, Compute("optimizer", model.optimizer)

    def _travel(self, bucket: Bucket, learner: ReplicaLearner) -> _Travel:
        found = self.exchange(bucket)
        index = bucket.index
        rounds = []
        for number, each in enumerate(found.rounds):
            coordinate = number if len(found.rounds) > 1 else None
            encode = [Compute("encode", each.encode, bucket=index, round=coordinate)] if each.encode else []
            rounds.append((encode, _collective(each, index, coordinate, learner.contents(index, number))))
        decode = [Compute("decode", found.decode, bucket=index)] if found.decode else []
        return _Travel(index, rounds, decode)


def _collective(described: Round, bucket: int, number: int | None, contents: Contents | None) -> Collective:
    return Collective(
        described.collective,
        group=GROUP,
        size_bytes=described.size_bytes,
        lane=GROUP,
        bucket=bucket,
        round=number,
        dtype=described.dtype,
        contents=contents,
    )


def _begin(travel: _Travel, number: int, learner: ReplicaLearner, step: int) -> Generator[Effect, Any, _UnderWay]:
    """Begin a round of a bucket."""
    encode, collective = travel.rounds[number]
    yield from encode
    learner.encode(travel.bucket, number, step)
    return _UnderWay(travel, number, (yield collective))


def _finish(begun: Sequence[_UnderWay], learner: ReplicaLearner, step: int) -> Program:
    """Wait for rounds, and do those that remain, round by round in the order of the buckets."""
    while begun:
        further = []
        for travel, number, handle in begun:
            yield Wait(handle)
            if number + 1 < len(travel.rounds):
                further.append((yield from _begin(travel, number + 1, learner, step)))
            else:
                yield from travel.decode
        begun = further
