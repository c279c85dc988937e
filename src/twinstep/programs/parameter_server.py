"""Parameter servers: workers push gradients, servers apply them and answer with parameters.

Ranks 0 to n - 1 are the workers, those after them the servers, which share the parameters by key. One step of a worker
with two servers (`w` waits):

    compute      load forward 0 1 2 backward 2 1 0  w w w w
    gradients                                       to server 0, to server 1
    parameters   (receives are posted first)               from server 0, from server 1

With `sync.compression` a worker encodes each server's part before it pushes, and the server decodes it before it
applies it.

A server takes the gradient that comes first, applies it, and answers every worker that the mode lets go on (`server`,
`admission`). Push and pull are one round trip: a worker asks for parameters by pushing its gradient (`client`). A
server's step ends with every n-th gradient.

Under bulk synchrony each server receives n gradients and sends n copies of its part of the parameters, S/k bytes of S
on k servers: `2 n S/(k B)` on a link of B bytes a second and direction, unless the workers' links are slower. With
replicas each server also sends one copy of S/k bytes a round to its successor, which others wait for: `S/(k B)` more.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from twinstep.effects import Compute, Mark, Program, Transfer
from twinstep.kernels import ELEMENT_BYTES
from twinstep.learning import Share, server_learner, worker_learner
from twinstep.plan import Plan
from twinstep.programs.client import Client
from twinstep.programs.exchange import Exchange, exchange
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.keys import key_ranges
from twinstep.programs.passes import evaluates, observed, passes
from twinstep.programs.placement import share_out
from twinstep.programs.repartition import exchange_samples
from twinstep.programs.server import Part, Server
from twinstep.programs.server_messages import GROUP, Messages
from twinstep.programs.strategy import EveryStepAlike
from twinstep.progress import WHOLE_LOSS
from twinstep.workloads import Model, describe


@dataclass(frozen=True)
class ParameterServer(EveryStepAlike):
    """A plan lowered to rank programs."""

    plan: Plan
    shares: tuple[Share, ...] = field(init=False)
    """Which samples a worker has."""
    keys: tuple[tuple[range, ...], ...] = field(init=False)
    """Which parameters a server has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", share_out(self.plan))
        elements = sum(parameter.elements for parameter in self.model(0).parameters)
        object.__setattr__(self, "keys", key_ranges(self.plan.sync.servers, elements))

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    @property
    def reactive(self) -> tuple[int, ...]:
        """List the servers."""
        return tuple(range(self.plan.workers, self.plan.ranks))

    def model(self, worker: int) -> Model:
        """Describe the model as a worker computes it."""
        return describe(self.plan.training, len(self.shares[worker]))

    def key(self, rank: int) -> Hashable:
        """Every rank has channels of its own."""
        return rank

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part."""
        if rank < self.plan.workers:
            parts = self.model(rank).memory_bytes()
            parts["optimizer_state"] = 0
            if self.plan.sync.compression.kind != "none":
                kept = parts["gradients"] if self.plan.sync.compression.feeds_back else 0
                parts["compression"] = kept + sum(each.size_bytes for each in self.exchanges)
        else:
            part_bytes = ELEMENT_BYTES * sum(self._sizes[part] for part in self._parts_on(rank))
            model = self.model(0)
            state_bytes = model.optimizer_state_bytes * part_bytes // sum(p.size_bytes for p in model.parameters)
            received = part_bytes * self.plan.workers
            parts = {"parameters": part_bytes, "gradients": received, "optimizer_state": state_bytes}
        return parts | {"total": sum(size for name, size in parts.items() if name != "total")}

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        return self._worker(rank) if rank < self.plan.workers else self._server(rank)

    def later_messages(self, rank: int) -> Sequence[Transfer]:
        """List what is sent where a replica acknowledges a copy, or where somebody has died."""
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
        return [each for each in self._pushes if each.size_bytes]

    @cached_property
    def _pushes(self) -> list[Exchange]:
        """List how a worker's gradients of each part travel, all rounds in one message."""
        return [exchange(self.plan.sync.compression, [(elements,)], ranks=1) for elements in self._sizes]

    def _messages(self, rank: int) -> Messages:
        return Messages(self.plan, self._sizes, [each.size_bytes for each in self._pushes], rank)

    def _worker(self, rank: int) -> Program:
        learner = worker_learner(self.plan, rank, self.shares[rank], self.keys)
        client = Client(self.plan, self._messages(rank), self._parts, learner)
        compute = passes(self.model(rank))
        compute += [
            Compute("encode", kernels, bucket=part) for part in self._parts if (kernels := self._pushes[part].encode)
        ]
        last = self.plan.total_steps - 1
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            if step == 0:
                yield from exchange_samples(GROUP, rank, self.shares[rank], learner.samples)
            yield from compute
            if evaluates(self.plan, step):
                yield from observed(learner.evaluate(), WHOLE_LOSS)
            yield from observed(learner.learn(step))
            yield from client.exchange(step)
            if step == last:
                yield from client.end()
            yield Mark("step_end", step)
        yield from observed(learner.evaluate(), WHOLE_LOSS)

    def _server(self, rank: int) -> Program:
        messages = self._messages(rank)
        parts = [
            Part(self.plan, messages, part, self._pushes[part].decode, server_learner(self.plan, part, self.keys))
            for part in self._parts_on(rank)
        ]
        server = Server(parts, self.plan.workers)
        step = 0
        yield Mark("step_begin", step)
        yield from server.begin()
        while not server.is_done:
            yield from server.serve()
            if step < min(server.rounds, self.plan.total_steps - 1):
                yield Mark("step_end", step)
                step += 1
                yield Mark("step_begin", step)
        yield from server.end()
        yield Mark("step_end", step)
