"""A worker's side of parameter servers: it pushes gradients, pulls parameters, and goes on with a successor."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from twinstep.effects import Effect, Handle, Observe, Program, Wait
from twinstep.errors import RunError
from twinstep.learning import WorkerLearner
from twinstep.plan import Plan
from twinstep.programs.server_messages import Messages


class Client:
    """One worker's connections to whoever is in charge of each part."""

    def __init__(self, plan: Plan, messages: Messages, parts: Sequence[int], learner: WorkerLearner) -> None:
        self._messages = messages
        self._learner = learner
        self._steps = plan.total_steps
        self._homes = {part: plan.workers + part for part in parts}
        self._connect(0)

    def _connect(self, step: int) -> None:
        rank, learner = self._messages.rank, self._learner
        self._pulls = {
            part: self._messages.parameters(part, home, rank, learner.parameters(part), step)
            for part, home in self._homes.items()
        }
        self._pushes = {
            part: self._messages.gradients(part, rank, home, learner.gradients(part), step)
            for part, home in self._homes.items()
        }

    def exchange(self, step: int) -> Program:
        """Push the gradients of a step and wait for the parameters, of each part from whoever is in charge."""
        parts = list(self._homes)
        if self._messages.touched is not None:  # each step has keys of its own
            self._connect(step)
        while parts:
            handles: list[Handle] = []
            for effects in (self._pushes, self._pulls):
                for part in parts:
                    handles.append((yield effects[part]))
            pushes, pulls = handles[: len(parts)], handles[len(parts) :]
            for handle in handles:
                yield Wait(handle)
            ends = zip(parts, pulls, pushes, strict=True)
            parts = [part for part, pull, push in ends if pull.failed or push.failed]
            for part in parts:
                yield from self._go_on_with_successor(part, step)

    def _go_on_with_successor(self, part: int, step: int) -> Program:
        successor = self._messages.successor(part)
        if successor is None or self._homes[part] == successor or not (yield from self._note(part, step)):
            raise RunError(f"no server is left that has part {part} of the parameters")
        yield Observe("goes_on_with", successor)
        self._homes[part] = successor
        self._connect(step)

    def _note(self, part: int, step: int) -> Generator[Effect, Any, bool]:
        """Tell a part's successor which step this is; give whether it lives."""
        contents = np.array([step], np.float32)
        handle = yield self._messages.note(part, self._messages.rank, contents)
        yield Wait(handle)
        return not handle.failed

    def end(self) -> Program:
        """Tell successors that no more will come."""
        for part in self._homes:
            if self._messages.successor(part) is not None:
                yield from self._note(part, self._steps)
