"""Shared memory: workers of one host read parameters that all share, and update them in place, without locks.

Nobody waits for anybody, and nothing is sent. One step of a worker (`*` is the update of another one):

    compute              read  load  forward 0 1 2  backward 2 1 0  optimizer
    shared parameters    read             *                 *          update

A gradient is as stale as there were updates of others between its read and its own update: here 2. Of n workers at
equal pace each makes one update meanwhile, so it is n - 1; a worker's reads and updates alternate, so over the whole
run its staleness adds up to no more than all updates of the others.

Each worker's gradient is that of its samples' part of the loss of the global batch, so n updates are about one step of
synchronous training on the whole batch.

Source: Niu, Recht, Ré, Wright, "Hogwild!: a lock-free approach to parallelizing stochastic gradient descent", 2011.
There gradients are sparse, and updates seldom meet; here they are dense, and all of them do.

When it is wrong: an update happens in an instant here, and takes as long as its kernel on a machine. Lines of the cache
that another core has written come from that core: kernels are calibrated on memory that no other core has written.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from twinstep.effects import Compute, Learn, Mark, Observe, Program, Synchronize
from twinstep.kernels import Kernel
from twinstep.learning import Share, Shared, shared_learner
from twinstep.plan import Plan
from twinstep.programs.buckets import Bucket
from twinstep.programs.groups import Groups
from twinstep.programs.passes import observed, passes
from twinstep.programs.placement import share_out
from twinstep.programs.strategy import Defaults
from twinstep.workloads import Model, describe


@dataclass(frozen=True)
class SharedMemory(Defaults):
    """A plan lowered to rank programs that share memory: one instance is good for one run."""

    plan: Plan
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a worker has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give none: nobody communicates."""
        return {}

    @property
    def _elements(self) -> int:
        return sum(parameter.elements for parameter in self.model(0).parameters)

    @cached_property
    def memory(self) -> Shared:
        """Give what all workers share."""
        return Shared(self.plan, self._elements)

    @cached_property
    def outline(self) -> SharedMemory:
        """Give the same programs without learning, and with a memory of their own."""
        still = self.plan.run.model_copy(update={"learning": False})
        return replace(self, plan=self.plan.model_copy(update={"run": still}))

    @property
    def shards(self) -> tuple[range, ...]:
        """Give which samples of each global batch a worker computes."""
        return tuple(share.batch for share in self.shares)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Give one bucket of all gradients, in the order of the shared parameters."""
        return (Bucket(0, self.model(0).parameters, ready_after_layer=0),)

    def model(self, rank: int) -> Model:
        """Describe the model as a worker computes it."""
        return describe(self.plan.training, len(self.shares[rank]))

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part; what is shared is listed for each worker, and is there once."""
        parts = self.model(rank).memory_bytes()
        total, shared = parts.pop("total"), parts["parameters"]
        return parts | {"shared_parameters": shared, "total": total + shared}

    def key(self, rank: int) -> Hashable:
        """No two workers live through the same: each finds other updates than its own."""
        return rank

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        learner = shared_learner(self.plan, rank, self.shares[rank], self.memory)
        model = self.model(rank)
        read = Compute("read", (Kernel("copy", (self._elements,)),))
        update = Compute("optimizer", model.optimizer)
        between = passes(model)
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            known = self.memory.updates_of_others(rank)
            learner.read()
            yield read
            losses = []
            for effect in between:
                losses.append((yield effect))
            if self.plan.run.learning:
                losses.append((yield Learn(partial(learner.learn, step))))
            yield update
            yield Synchronize()
            staleness = self.memory.updates_of_others(rank) - known
            learner.update()
            self.memory.count_update(rank)
            yield Observe("staleness", staleness)
            yield from observed(next((loss for loss in losses if loss is not None), None))
            yield Mark("step_end", step)
