"""A parameter server: takes what comes first, applies it, and answers whoever may go on.

    gradients of workers 0, 1, 2     0   1     2
    the device applies               ##  ##    ##
    parameters to workers              0   1     2

With a replica, an answer waits until the successor has acknowledged its copy, and the server serves others meanwhile:

    gradients of workers 0, 1, 2     0   1     2
    copies to the successor            0   1     2
    acknowledgements                       0   1     2
    parameters to workers                  0   1     2

The parameters of an answer are those of the moment at which it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from twinstep.effects import Compute, Effect, Handle, Next, Observe, Program, Transfer, Wait
from twinstep.kernels import Kernel
from twinstep.learning import ServerLearner
from twinstep.plan import Plan
from twinstep.programs.admission import Verdict, admission
from twinstep.programs.exchange import Kernels
from twinstep.programs.server_messages import Messages

Actions = dict[str, Callable[[Transfer], Program]]
"""What is to be done with each message that comes, by its operation."""


class Part:
    """One part of the parameters on one server: the part that it is in charge of, or its replica of another."""

    def __init__(self, plan: Plan, messages: Messages, part: int, decode: Kernels, learner: ServerLearner) -> None:
        server = messages.rank
        self._messages = messages
        self._part = part
        self._learner = learner
        self._is_replica = server != plan.workers + part
        self.successor = None if self._is_replica else messages.successor(part)
        """The server that copies are sent to; None where there is none, or where it died."""
        workers = range(plan.workers)
        self._takes = [messages.gradients(part, w, server, learner.received(w)) for w in workers]
        self._gives = [messages.parameters(part, server, w, learner.answer(w)) for w in workers]
        self._optimizer = plan.training.optimizer.kind
        self._updates: dict[int, Compute] = {}
        self._decode = [Compute("decode", decode)] if decode else []
        self._steps = plan.total_steps
        self._left = [plan.total_steps] * plan.workers
        """Gradients of each worker that were not applied yet."""
        self._admission = admission(plan.sync, plan.workers, plan.total_steps)
        self._in_rounds = plan.sync.mode == "bulk_synchronous"
        self._version = 0
        self._given = [0] * plan.workers
        """The version of the parameters that each worker has."""
        self._sent: dict[int, Handle] = {}
        self._asking: set[int] = set()
        """Workers that have sent a gradient and were not answered."""
        self._granted: set[int] = set()
        """Workers that are answered as soon as they ask; a replica has such."""
        self._copied: set[int] = set()
        """Workers whose next gradient is here already, as a copy."""
        self._done: set[int] = set()
        """Workers that will not ask again."""
        self._unacknowledged: deque[tuple[Handle, list[int]]] = deque()
        """Copies that the successor has not acknowledged, and who is answered once it has."""
        self._acknowledged: Handle | None = None
        self.gradients = 0
        """How many have come from workers."""

    @property
    def is_done(self) -> bool:
        """Tell whether no worker will ask again."""
        return len(self._done) == len(self._left)

    def begin(self) -> Generator[Effect, Any, Actions]:
        """Be ready for every worker, or for copies and notes; give what is to be done with each message."""
        actions: Actions = {take.operation: partial(self._gradient, w) for w, take in enumerate(self._takes)}
        if self.successor is not None:
            actions[self._messages.acknowledgement(self._part).operation] = self._acknowledgement
        awaited = self._takes
        if self._is_replica:
            copies, notes = self._copies(), self._notes()
            actions |= {take.operation: partial(self._copy, key) for key, take in copies.items()}
            actions |= {note.operation: partial(self._note, worker) for worker, note in enumerate(notes)}
            awaited = [*copies.values(), *notes]
        for take in awaited:
            _ = yield take  # its handle comes by `Next`
        return actions

    def _gradient(self, worker: int, _: Transfer) -> Program:
        """Take a worker's gradient."""
        if worker in self._done:
            return
        self._asking.add(worker)
        if worker in self._copied:
            self._copied.remove(worker)
            if worker in self._granted:
                yield from self._answer([worker])
            return
        self.gradients += 1
        yield Observe("staleness", self._version - self._given[worker])
        yield Observe("lag", self._admission.lag(worker))
        yield from self._decode
        self._learner.decode(worker, self._steps - self._left[worker])
        yield self._update(worker)
        self._left[worker] -= 1
        yield from self._follow(self._admission.pushed(worker))

    def _update(self, worker: int) -> Compute:
        """Give the update by a worker's gradient."""
        elements = self._messages.updated(self._part, worker, self._steps - self._left[worker])
        if elements not in self._updates:
            self._updates[elements] = Compute("optimizer", (Kernel(self._optimizer, (elements, 1)),))
        return self._updates[elements]

    def _follow(self, verdict: Verdict) -> Program:
        """Apply what is to be applied, copy it, and answer once all that was copied is acknowledged."""
        if verdict.applied:
            gradient = self._learner.combined(verdict.applied)
            self._learner.apply(gradient)
            self._version += 1
            if self.successor is not None:
                worker = None if self._in_rounds else verdict.applied[0]
                copy = yield self._messages.copy(self._part, worker, gradient)
                _ = yield self._messages.acknowledgement(self._part)
                self._unacknowledged.append((copy, []))
        if self._unacknowledged:
            self._unacknowledged[-1][1].extend(verdict.answered)
        else:
            yield from self._answer(verdict.answered)

    def _answer(self, workers: Iterable[int]) -> Program:
        """Answer workers that ask; let the others be answered when they do."""
        for worker in workers:
            if worker not in self._asking:
                self._granted.add(worker)
                continue
            self._asking.remove(worker)
            self._granted.discard(worker)
            if worker in self._sent:
                yield Wait(self._sent.pop(worker))
            self._learner.prepare(worker)
            if self._messages.touched is not None:  # each step has keys of its own
                self._describe_next(worker)
            self._given[worker] = self._version
            self._sent[worker] = yield self._gives[worker]
            if self._left[worker]:
                yield self._takes[worker]
            elif not self._is_replica:
                self._done.add(worker)

    def _describe_next(self, worker: int) -> None:
        """Describe the answer to a worker's last gradient, and its next gradient."""
        server, step = self._messages.rank, self._steps - self._left[worker]
        received, answer = self._learner.received(worker), self._learner.answer(worker)
        self._takes[worker] = self._messages.gradients(self._part, worker, server, received, step)
        self._gives[worker] = self._messages.parameters(self._part, server, worker, answer, step - 1)

    def _acknowledgement(self, _: Transfer) -> Program:
        """Answer those who waited for the oldest copy."""
        if self.successor is None:  # it died since, and nobody waits any more
            return
        copy, workers = self._unacknowledged.popleft()
        yield Wait(copy)
        yield from self._answer(workers)

    def _copies(self) -> dict[int | None, Transfer]:
        """List the copies that may come: of each worker's gradients, or of rounds."""
        keys: Sequence[int | None] = [None] if self._in_rounds else range(len(self._left))
        return {key: self._messages.copy(self._part, key, self._learner.copied()) for key in keys}

    def _copy(self, key: int | None, take: Transfer) -> Program:
        """Take the copy of a worker's gradient, or of a round's."""
        if self._acknowledged is not None:
            yield Wait(self._acknowledged)
        self._acknowledged = yield self._messages.acknowledgement(self._part)
        yield self._update(key or 0)
        self._learner.apply(take.contents)
        self._version += 1
        living = [w for w in (range(len(self._left)) if key is None else [key]) if w not in self._done]
        for worker in living:
            self._left[worker] -= 1
            self._granted.discard(worker)
            yield from self._answer(self._admission.pushed(worker).answered)
        if any(self._left[worker] for worker in living):
            _ = yield take

    def _notes(self) -> list[Transfer]:
        """List the notes that workers may send."""
        return [self._messages.note(self._part, w, np.zeros(1, np.float32)) for w in range(len(self._left))]

    def _note(self, worker: int, note: Transfer) -> Program:
        """Let a worker go on here, or know that it is done."""
        assert note.contents is not None  # noqa: S101 - `_notes` has given it some
        step = int(note.contents[0])
        if step == self._steps:
            self._done.add(worker)
            return
        if self._steps - self._left[worker] > step:
            self._copied.add(worker)
        self._given[worker] = self._version
        _ = yield note
        _ = yield self._takes[worker]

    def leave(self, worker: int) -> Program:
        """Go on without a worker that died."""
        if worker in self._done:
            return
        self._done.add(worker)
        self._asking.discard(worker)
        self._left[worker] = 0
        yield from self._follow(self._admission.left(worker))

    def go_alone(self) -> Program:
        """Go on without the successor, which died."""
        self.successor = None
        while self._unacknowledged:
            copy, workers = self._unacknowledged.popleft()
            yield Wait(copy)
            yield from self._answer(workers)

    def end(self) -> Program:
        """Let the last messages arrive."""
        for handle in (*self._sent.values(), *([self._acknowledged] if self._acknowledged else [])):
            yield Wait(handle)


class Server:
    """A server's parts together."""

    def __init__(self, parts: Sequence[Part], workers: int) -> None:
        self._parts = parts
        self._workers = workers
        self._actions: Actions = {}
        self._living = workers
        self._dead: set[int] = set()
        self._counted = 0

    @property
    def is_done(self) -> bool:
        """Tell whether no worker will ask again."""
        return all(part.is_done for part in self._parts)

    def ends_step(self) -> bool:
        """Tell whether as many gradients of its own part have come since the last step as there are living workers."""
        if self._parts[0].gradients - self._counted < self._living:
            return False
        self._counted = self._parts[0].gradients
        return True

    def begin(self) -> Program:
        """Be ready for messages."""
        for part in self._parts:
            self._actions |= yield from part.begin()

    def serve(self) -> Program:
        """Do what the next message asks for; or go on without who died before he could send it."""
        handle = yield Next()
        effect = handle.effect
        if not handle.failed:
            yield from self._actions[effect.operation](effect)
        elif effect.source not in self._dead:
            self._dead.add(effect.source)
            self._living -= effect.source < self._workers
            yield from self._go_on_without(effect.source)

    def _go_on_without(self, rank: int) -> Program:
        for part in self._parts:
            if rank < self._workers:
                yield from part.leave(rank)
            elif rank == part.successor:
                yield from part.go_alone()

    def end(self) -> Program:
        """Let the last messages arrive."""
        for part in self._parts:
            yield from part.end()
