"""Parameter servers: workers push gradients, servers apply them and answer with parameters.

Ranks 0 to n - 1 are the workers, those after them the servers, which share the parameters by key. One step of a worker
with two servers (`w` waits):

    compute      load forward 0 1 2 backward 2 1 0  w w w w
    gradients                                       to server 0, to server 1
    parameters   (receives are posted first)               from server 0, from server 1

With `sync.compression` a worker encodes each server's part before it pushes, and the server decodes it before it
applies it.

A server takes the gradient that comes first, applies it, and answers every worker that the mode lets go on
(`admission`). Push and pull are one round trip: a worker asks for parameters by pushing its gradient. A server's step
ends with every n-th gradient.

Under bulk synchrony each server receives n gradients and sends n copies of its part of the parameters, S/k bytes of S
on k servers: `2 n S/(k B)` on a link of B bytes a second and direction, unless the workers' links are slower.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from twinstep.effects import Compute, Contents, Effect, Handle, Mark, Next, Observe, Program, Transfer, Wait
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.learning import Share, server_learner, worker_learner
from twinstep.plan import Plan
from twinstep.programs.admission import admission
from twinstep.programs.exchange import Exchange, exchange
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.keys import key_ranges
from twinstep.programs.passes import observed, passes
from twinstep.programs.placement import share_out
from twinstep.programs.strategy import EveryStepAlike
from twinstep.workloads import Model, describe

GROUP = "servers"
GRADIENTS, PARAMETERS = "gradients", "parameters"


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
            part_bytes = ELEMENT_BYTES * self.elements(rank)
            model = self.model(0)
            state_bytes = model.optimizer_state_bytes * part_bytes // sum(p.size_bytes for p in model.parameters)
            received = part_bytes * self.plan.workers
            parts = {"parameters": part_bytes, "gradients": received, "optimizer_state": state_bytes}
        return parts | {"total": sum(size for name, size in parts.items() if name != "total")}

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        return self._worker(rank) if rank < self.plan.workers else self._server(rank)

    def elements(self, server: int) -> int:
        """Count the parameters of a server."""
        return sum(map(len, self.keys[server - self.plan.workers]))

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """List how the gradients of a worker travel in a step."""
        return [self.pushed(server) for server in self._servers()]

    def pushed(self, server: int) -> Exchange:
        """Describe how a worker's gradients travel to a server, all rounds in one message."""
        return exchange(self.plan.sync.compression, [(self.elements(server),)], ranks=1)

    def _servers(self) -> list[int]:
        """List the servers that have parameters."""
        return [server for server in self.reactive if self.elements(server)]

    def _worker(self, rank: int) -> Program:
        learner = worker_learner(self.plan, rank, self.shares[rank], self.keys)
        first = self.plan.workers
        compute = passes(self.model(rank))
        pulls = [self.transfer(PARAMETERS, j, rank, rank, learner.parameters(j - first)) for j in self._servers()]
        pushes = [self.transfer(GRADIENTS, rank, j, rank, learner.gradients(j - first)) for j in self._servers()]
        compute += [
            Compute("encode", kernels, bucket=j - first) for j in self._servers() if (kernels := self.pushed(j).encode)
        ]
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            yield from compute
            yield from observed(learner.learn(step))
            handles = []
            for effect in (*pulls, *pushes):
                handles.append((yield effect))
            for handle in (*handles[len(pulls) :], *handles[: len(pulls)]):
                yield Wait(handle)
            yield Mark("step_end", step)

    def _server(self, rank: int) -> Program:
        workers, steps = self.plan.workers, self.plan.total_steps
        server = _Server(self, rank)
        yield Mark("step_begin", 0)
        if self.elements(rank):
            yield from server.begin()
        for step in range(steps):
            if step:
                yield Mark("step_begin", step)
            for _ in range(workers if self.elements(rank) else 0):
                yield from server.serve()
            if step == steps - 1:
                yield from server.end()
            yield Mark("step_end", step)

    def transfer(self, lane: str, source: int, target: int, rank: int, contents: Contents | None) -> Transfer:
        """Describe a message between a worker and a server as `rank` sees it; servers hear of what comes."""
        server = max(source, target)
        size_bytes = self.pushed(server).size_bytes if lane == GRADIENTS else ELEMENT_BYTES * self.elements(server)
        kind: Literal["send", "recv"] = "send" if rank == source else "recv"
        announced = kind == "recv" and rank >= self.plan.workers
        return Transfer(kind, GROUP, source, target, size_bytes, lane, announced=announced, contents=contents)


class _Server:
    """One server while it runs."""

    def __init__(self, programs: ParameterServer, rank: int) -> None:
        plan = programs.plan
        workers = range(plan.workers)
        learner = self._learner = server_learner(plan, rank - plan.workers, programs.keys)
        self._takes = [programs.transfer(GRADIENTS, w, rank, rank, learner.received(w)) for w in workers]
        self._gives = [programs.transfer(PARAMETERS, rank, w, rank, learner.answer(w)) for w in workers]
        kernel = Kernel(plan.training.optimizer.kind, (programs.elements(rank), 1))
        self._update = Compute("optimizer", (kernel,))
        decode = programs.pushed(rank).decode if programs.elements(rank) else ()
        self._decode = [Compute("decode", decode)] if decode else []
        self._left = [plan.total_steps] * plan.workers
        self._admission = admission(plan.sync, plan.workers, plan.total_steps)
        self._version = 0
        self._given = [0] * plan.workers
        """The version of the parameters that each worker has."""
        self._sent: dict[int, Handle] = {}

    def begin(self) -> Generator[Effect, Any, None]:
        """Be ready for every worker's first gradient."""
        for take in self._takes:
            _ = yield take  # its handle comes by `Next`

    def serve(self) -> Generator[Effect, Any, None]:
        """Take a gradient, apply it, answer whoever may go on."""
        handle = yield Next()
        worker = handle.effect.source
        yield Observe("staleness", self._version - self._given[worker])
        yield Observe("lag", self._admission.lag(worker))
        yield from self._decode
        self._learner.decode(worker)
        yield self._update
        self._left[worker] -= 1
        verdict = self._admission.pushed(worker)
        self._learner.apply(verdict.applied)
        self._version += bool(verdict.applied)
        for ready in verdict.answered:
            if ready in self._sent:
                yield Wait(self._sent.pop(ready))
            if self._left[ready]:
                yield self._takes[ready]
            self._learner.prepare(ready)
            self._given[ready] = self._version
            self._sent[ready] = yield self._gives[ready]

    def end(self) -> Generator[Effect, Any, None]:
        """Let the last answers arrive."""
        for handle in self._sent.values():
            yield Wait(handle)
        self._sent.clear()
