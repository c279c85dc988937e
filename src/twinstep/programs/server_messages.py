"""Messages between workers and parameter servers, part by part: part j is what server j is in charge of.

| lane | from | to | what |
|---|---|---|---|
| gradients | worker | server in charge | a worker's gradient |
| parameters | server in charge | worker | the answer to it |
| copies | server in charge | its successor | what was applied: one worker's gradient, or those of a round together |
| acknowledgements | successor | server in charge | that it has a copy |
| notes | worker | successor | the step that it goes on with; the number of all steps when it is done |

The successor of a server that died is in charge of its part, too; what it says about that has lanes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from twinstep.effects import Contents, Transfer
from twinstep.kernels import ELEMENT_BYTES
from twinstep.plan import Plan
from twinstep.programs.touched import Touched

GROUP = "servers"
GRADIENTS, PARAMETERS = "gradients", "parameters"
COPIES, ACKNOWLEDGEMENTS, NOTES = "copies", "acknowledgements", "notes"
NOTE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of one rank, which sends them or receives them."""

    plan: Plan
    elements: Sequence[int]
    """Parameters of each part."""
    pushed_bytes: Sequence[int]
    """Of a worker's gradient of each part, as it is sent."""
    rank: int
    touched: Touched | None = None
    """Which parameters messages carry; None where they carry all of a part."""

    def successor(self, part: int) -> int | None:
        """Give the server that has a replica of a part; None where nobody has."""
        servers = self.plan.sync.servers
        return self.plan.workers + (part + 1) % servers.count if servers.replicas > 1 else None

    def gradients(self, part: int, worker: int, server: int, contents: Contents | None, step: int = 0) -> Transfer:
        """Describe a worker's gradient of a step on its way to a server."""
        whole_bytes = self.pushed_bytes[part]
        size_bytes = self.touched.push_bytes(part, worker, step) if self.touched else whole_bytes
        return self._message(self._lane(GRADIENTS, part, server), worker, server, size_bytes, contents)

    def parameters(self, part: int, server: int, worker: int, contents: Contents | None, step: int = 0) -> Transfer:
        """Describe a server's answer to a worker's gradient of a step."""
        if self.touched is not None:
            return self._message(PARAMETERS, server, worker, self.touched.answer_bytes(part, worker, step), contents)
        return self._whole(self._lane(PARAMETERS, part, server), part, server, worker, contents)

    def updated(self, part: int, worker: int, step: int) -> int:
        """Count the parameters that a worker's gradient of a step changes, one at the least."""
        return self.elements[part] if self.touched is None else max(1, self.touched.pairs(part, worker, step))

    def copy(self, part: int, worker: int | None, contents: Contents | None) -> Transfer:
        """Describe the copy of a worker's gradient, or of a round's, that a part's successor gets."""
        lane = COPIES if worker is None else f"{COPIES} of {worker}"
        return self._whole(lane, part, self.plan.workers + part, self._heir(part), contents)

    def acknowledgement(self, part: int) -> Transfer:
        """Describe the successor's word that it has a copy."""
        return self._message(ACKNOWLEDGEMENTS, self._heir(part), self.plan.workers + part, NOTE_BYTES, None)

    def note(self, part: int, worker: int, contents: Contents) -> Transfer:
        """Describe a worker's note to a part's successor; `contents` (1,) is a number of steps."""
        return self._message(NOTES, worker, self._heir(part), NOTE_BYTES, contents)

    def _heir(self, part: int) -> int:
        successor = self.successor(part)
        if successor is None:
            raise ValueError(f"part {part} has no replica")
        return successor

    def _lane(self, name: str, part: int, server: int) -> str:
        return name if server == self.plan.workers + part else f"{name} of part {part}"

    def _whole(self, lane: str, part: int, source: int, target: int, contents: Contents | None) -> Transfer:
        return self._message(lane, source, target, ELEMENT_BYTES * self.elements[part], contents)

    def _message(self, lane: str, source: int, target: int, size_bytes: int, contents: Contents | None) -> Transfer:
        kind: Literal["send", "recv"] = "send" if self.rank == source else "recv"
        announced = kind == "recv" and self.rank >= self.plan.workers
        return Transfer(kind, GROUP, source, target, size_bytes, lane, announced=announced, contents=contents)
