"""A loop of one collective: what nccl-tests and other benchmarks of communication do.

compute
all      [ all_reduce ][ all_reduce ] ...     each is waited for before the next

With barriers, one stands before each. Of a message, which is no collective, only the first two ranks know.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from twinstep.effects import Collective, Effect, Mark, Program, Transfer, Wait
from twinstep.plan import Plan
from twinstep.programs.groups import Groups, everybody
from twinstep.programs.strategy import Defaults
from twinstep.workloads import CollectiveBench

GROUP = "all"


@dataclass(frozen=True)
class CollectiveLoop(Defaults):
    """A plan lowered to rank programs."""

    plan: Plan
    bench: CollectiveBench

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return everybody(GROUP, self.plan.ranks)

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Count an input and an output."""
        return {"buffers": 2 * self.bench.size, "total": 2 * self.bench.size}

    def key(self, rank: int) -> Hashable:
        """All ranks do the same, but for the two ends of a message."""
        return min(rank, 2) if self.bench.collective == "send" else None

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        effects = [effect for number in range(self.bench.times) for effect in self._round(rank, number)]
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            for effect in effects:
                handle = yield effect
                yield Wait(handle)
            yield Mark("step_end", step)

    def _round(self, rank: int, number: int) -> Iterator[Effect]:
        """Give what a rank does once: perhaps a barrier, then its part in the communication."""
        bucket = number if self.bench.times > 1 else None
        if self.plan.ranks == 1:
            return
        if self.bench.barrier:
            yield Collective("barrier", GROUP, 0, GROUP, bucket)
        if self.bench.collective != "send":
            yield Collective(self.bench.collective, GROUP, self.bench.size, GROUP, bucket)
        elif rank < 2:
            kind: Literal["send", "recv"] = "send" if rank == 0 else "recv"
            yield Transfer(kind, GROUP, 0, 1, self.bench.size, "messages", microbatch=bucket)
