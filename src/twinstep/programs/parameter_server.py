"""Parameter servers: workers push gradients, servers apply them and answer with parameters.

Ranks 0 to n - 1 are the workers, those after them the servers, which share the parameters by key. One step of a worker
with two servers (`w` waits):

    compute      load forward 0 1 2 backward 2 1 0  w w w w
    gradients                                       to server 0, to server 1
    parameters   (receives begin after what is sent)       from server 0, from server 1

With `sync.compression` a worker encodes each server's part before it pushes, and the server decodes it before it
applies it.

A server takes the gradient that comes first, applies it, and answers every worker that the mode lets go on (`server`,
`admission`). Push and pull are one round trip: a worker asks for parameters by pushing its gradient (`client`). A
server's step ends with every n-th gradient of n workers that live.

Under bulk synchrony each server receives n gradients and sends n copies of its part of the parameters, S/k bytes of S
on k servers: `2 n S/(k B)` on a link of B bytes a second and direction, unless the workers' links are slower. With
replicas each server also sends one copy of S/k bytes a round to its successor, which others wait for: `S/(k B)` more.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from twinstep.effects import Compute, Mark, Program, Transfer
from twinstep.kernels import ELEMENT_BYTES
from twinstep.learning import (
    ServerLearner,
    Share,
    WorkerLearner,
    server_learner,
    sparse_server,
    sparse_worker,
    worker_learner,
)
from twinstep.plan import Plan
from twinstep.programs.client import Client
from twinstep.programs.exchange import Exchange, exchange
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.keys import key_ranges
from twinstep.programs.passes import evaluates, learnt, passes
from twinstep.programs.placement import share_out
from twinstep.programs.repartition import exchange_samples
from twinstep.programs.server import Part, Server
from twinstep.programs.server_messages import GROUP, Messages
from twinstep.programs.strategy import Defaults
from twinstep.programs.touched import Touched, touched_by
from twinstep.progress import WHOLE_LOSS
from twinstep.workloads import Model, SparseLogisticRegression, describe


@dataclass(frozen=True)
class ParameterServer(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a worker has."""
    keys: tuple[tuple[range, ...], ...] = field(init=False)
    """Which parameters a server has."""
    touched: Touched | None = field(init=False)
    """What workers' batches touch, where that is not everything."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))
        object.__setattr__(self, "keys", key_ranges(self.plan.sync.servers, _elements(self.plan)))
        object.__setattr__(self, "touched", touched_by(self.plan, self.shares, self.keys))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    @property
    def reactive(self) -> tuple[int, ...]:
        """List the servers."""
        return tuple(range(self.plan.workers, self.plan.ranks))

    def model(self, worker: int, step: int = 0) -> Model:
        """Describe the model as a worker computes it in a step."""
        if self.touched is not None:
            return self.touched.model(worker, step)
        return describe(self.plan.training, len(self.shares[worker]))

    def key(self, rank: int) -> Hashable:
        """Every rank has channels of its own."""
        return rank

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part."""
        if rank < self.plan.workers:
            parts = self.model(rank).memory_bytes()
            parts["optimizer_state"] = 0
            if self._carried is not None:
                parts |= self._carried.worker_bytes(rank)
            if self.plan.sync.compression.kind != "none":
                kept = parts["gradients"] if self.plan.sync.compression.feeds_back else 0
                parts["compression"] = kept + sum(each.size_bytes for each in self.exchanges)
        else:
            part_bytes = ELEMENT_BYTES * sum(self._sizes[part] for part in self._parts_on(rank))
            model = self.model(0)
            state_bytes = model.optimizer_state_bytes * part_bytes // sum(p.size_bytes for p in model.parameters)
            received = part_bytes * self.plan.workers
            if self._carried is not None:
                received = sum(map(self._carried.received_bytes, self._parts_on(rank)))
            parts = {"parameters": part_bytes, "gradients": received, "optimizer_state": state_bytes}
        return parts | {"total": sum(size for name, size in parts.items() if name != "total")}

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        return self._worker(rank) if rank < self.plan.workers else self._server(rank)

    def later_messages(self, rank: int) -> Sequence[Transfer]:
        """List what is sent in steps with other keys, where a replica acknowledges a copy, or somebody has died."""
        if self._carried is not None:
            return self._every_step(rank)
        if self.plan.sync.servers.replicas == 1:
            return ()
        messages, workers = self._messages(rank), self.plan.workers
        if rank < workers:
            heirs = {part: messages.successor(part) for part in self._parts}
            notes = [messages.note(part, rank, np.zeros(1, np.float32)) for part in heirs]
            return [*notes, *(messages.gradients(part, rank, heir, None) for part, heir in heirs.items() if heir)]
        own = [part for part in self._parts_on(rank) if part == rank - workers]
        others = [part for part in self._parts_on(rank) if part != rank - workers]
        keys = [None] if self.plan.sync.mode == "bulk_synchronous" else range(workers)
        copies = [messages.copy(part, key, None) for part in own for key in keys]
        acknowledgements = [messages.acknowledgement(part) for part in others]
        answers = [messages.parameters(part, rank, w, None) for part in (*own, *others) for w in range(workers)]
        return [*copies, *acknowledgements, *answers]

    @cached_property
    def _sizes(self) -> list[int]:
        """Count the parameters of each part."""
        return [sum(map(len, ranges)) for ranges in self.keys]

    @property
    def _parts(self) -> list[int]:
        """List the parts that have any parameters."""
        return [part for part, elements in enumerate(self._sizes) if elements]

    def _parts_on(self, server: int) -> list[int]:
        """List the parts that a server has: its own, and the one that it has a replica of."""
        servers = self.plan.sync.servers
        own = server - self.plan.workers
        return [
            part for part in ((own - each) % servers.count for each in range(servers.replicas)) if self._sizes[part]
        ]

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """List how the gradients of a worker travel in a step."""
        return [self._pushes[part] for part in self._parts]

    @cached_property
    def _pushes(self) -> list[Exchange]:
        """List how a worker's gradients of each part travel, all rounds in one message."""
        return [exchange(self.plan.sync.compression, [(elements,)], ranks=1) for elements in self._sizes]

    @property
    def _carried(self) -> Touched | None:
        """Give what messages carry; None where they carry all."""
        return self.touched if self.plan.sync.servers.sparse else None

    def _messages(self, rank: int) -> Messages:
        return Messages(self.plan, self._sizes, [each.size_bytes for each in self._pushes], rank, self._carried)

    def _every_step(self, rank: int) -> list[Transfer]:
        """List what a rank sends in all steps, since keys differ."""
        messages, workers, steps = self._messages(rank), self.plan.workers, range(self.plan.total_steps)
        if rank < workers:
            return [messages.gradients(p, rank, workers + p, None, step) for p in self._parts for step in steps]
        own = self._parts_on(rank)
        return [messages.parameters(p, rank, w, None, step) for p in own for w in range(workers) for step in steps]

    def _learns(self, worker: int) -> WorkerLearner:
        learner = worker_learner if self._carried is None else sparse_worker
        return learner(self.plan, worker, self.shares[worker], self.keys)

    def _serves(self, part: int) -> ServerLearner:
        if self._carried is None:
            return server_learner(self.plan, part, self.keys)
        return sparse_server(self.plan, part, self.keys, partial(self._carried.push_bytes, part))

    def _worker(self, rank: int) -> Program:
        learner = self._learns(rank)
        client = Client(self.plan, self._messages(rank), self._parts, learner)
        encodes = {part: self._pushes[part].encode for part in self._parts}
        encode = [Compute("encode", kernels, bucket=part) for part, kernels in encodes.items() if kernels]
        compute = [*passes(self.model(rank)), *encode]
        last = self.plan.total_steps - 1
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            if step == 0:
                yield from exchange_samples(GROUP, rank, self.shares[rank], learner.samples)
            yield from compute if self.touched is None else [*passes(self.model(rank, step)), *encode]
            if evaluates(self.plan, step):
                yield from learnt(self.plan, learner.evaluate, WHOLE_LOSS)
            yield from learnt(self.plan, partial(learner.learn, step))
            yield from client.exchange(step)
            if step == last:
                yield from client.end()
            yield Mark("step_end", step)
        yield from learnt(self.plan, learner.evaluate, WHOLE_LOSS)

    def _server(self, rank: int) -> Program:
        messages = self._messages(rank)
        parts = [
            Part(self.plan, messages, part, self._pushes[part].decode, self._serves(part))
            for part in self._parts_on(rank)
        ]
        server = Server(parts, self.plan.workers)
        step = 0
        yield Mark("step_begin", step)
        yield from server.begin()
        while not server.is_done:
            yield from server.serve()
            if server.ends_step() and step < self.plan.total_steps - 1:
                yield Mark("step_end", step)
                step += 1
                yield Mark("step_begin", step)
        yield from server.end()
        yield Mark("step_end", step)


def _elements(plan: Plan) -> int:
    """Count the parameters of a plan's model."""
    if isinstance(plan.workload, SparseLogisticRegression):
        return plan.workload.features + 1
    return sum(parameter.elements for parameter in describe(plan.training, 1).parameters)
