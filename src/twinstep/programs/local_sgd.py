"""Local SGD and gossip: workers take steps of their own, and now and then agree on parameters.

Every `sync.every` steps all workers average their parameters: all of them by an all-reduce (local SGD), or each with
its neighbours (gossip). One step with averaging by all-reduce (`w` waits):

    compute      load forward 0 1 2 backward 2 1 0 optimizer  w  optimizer (the average)
    parameters                                          all_reduce

With momentum of the averages this is DiLoCo's outer optimizer. Sources: Stich, "Local SGD converges fast and
communicates little", 2019; Douillard et al., "DiLoCo", 2023; Boyd et al., "Randomized gossip algorithms", 2006.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from twinstep.effects import Collective, Compute, Effect, Mark, Program, Transfer, Wait
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.learning import LocalLearner, Share, local_learner
from twinstep.plan import Plan
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.neighbours import mixing_weights, neighbours
from twinstep.programs.passes import evaluates, learnt, passes
from twinstep.programs.placement import share_out
from twinstep.programs.repartition import exchange_samples
from twinstep.programs.strategy import Defaults
from twinstep.progress import WHOLE_LOSS
from twinstep.workloads import Model, describe

GROUP = "data"
PARAMETERS = "parameters"


@dataclass(frozen=True)
class LocalSgd(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a worker has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    @property
    def period(self) -> int:
        """Give the steps after which programs repeat."""
        return self.plan.sync.every

    def model(self, rank: int) -> Model:
        """Describe the model as a worker computes it."""
        return describe(self.plan.training, len(self.shares[rank]))

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part: beside its own parameters those that it averages with."""
        parts = self.model(rank).memory_bytes()
        parts["received"] = parts["parameters"] * (
            1 if self.plan.sync.method == "local_sgd" else len(self._peers(rank))
        )
        return parts | {"total": sum(size for name, size in parts.items() if name != "total")}

    def key(self, rank: int) -> Hashable:
        """Ranks with equally many samples do the same; messages have channels of their own for each."""
        has_messages = self.plan.sync.method == "gossip" or self.plan.partition.remedy == "repartition"
        return rank if has_messages else len(self.shares[rank])

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        peers = self._peers(rank)
        learner = local_learner(self.plan, rank, self.shares[rank], peers)
        model = self.model(rank)
        compute = [*passes(model), Compute("optimizer", model.optimizer)]
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            if step == 0:
                yield from exchange_samples(GROUP, rank, self.shares[rank], learner.samples)
            yield from compute
            if evaluates(self.plan, step):
                yield from learnt(self.plan, learner.evaluate, WHOLE_LOSS)
            yield from learnt(self.plan, partial(learner.learn, step))
            if (step + 1) % self.plan.sync.every == 0 and self.plan.ranks > 1:
                yield from self._agree(rank, peers, model, learner)
            yield Mark("step_end", step)
        yield from learnt(self.plan, learner.evaluate, WHOLE_LOSS)

    def _agree(
        self, rank: int, peers: Mapping[int, float], model: Model, learner: LocalLearner
    ) -> Generator[Effect, Any, None]:
        """Average parameters with all others, or with the neighbours."""
        elements = sum(parameter.elements for parameter in model.parameters)
        size_bytes = ELEMENT_BYTES * elements
        learner.offer()
        handles = []
        if self.plan.sync.method == "local_sgd":
            effect = Collective("all_reduce", GROUP, size_bytes, PARAMETERS, contents=learner.offered())
            handles.append((yield effect))
        else:
            for peer in peers:
                contents = learner.received(peer)
                handles.append((yield Transfer("recv", GROUP, peer, rank, size_bytes, PARAMETERS, contents=contents)))
            for peer in peers:
                contents = learner.offered()
                handles.append((yield Transfer("send", GROUP, rank, peer, size_bytes, PARAMETERS, contents=contents)))
        for handle in handles:
            yield Wait(handle)
        added = (Kernel("residual_add", (elements,)),) * len(peers)
        yield Compute("optimizer", added or (Kernel("momentum", (elements, len(model.parameters))),))
        learner.average()

    def _peers(self, rank: int) -> Mapping[int, float]:
        """Give the neighbours of a worker that gossips, and their weights in its average."""
        return self._weights[rank] if self.plan.sync.method == "gossip" else {}

    @cached_property
    def _weights(self) -> tuple[Mapping[int, float], ...]:
        return mixing_weights(neighbours(self.plan))
