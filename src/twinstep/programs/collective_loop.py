"""A loop of one collective: what nccl-tests and other benchmarks of communication do.

compute
all      [ all_reduce ][ all_reduce ] ...     each is waited for before the next
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from twinstep.effects import Collective, Mark, Program, Wait
from twinstep.plan import Plan
from twinstep.programs.groups import Groups
from twinstep.workloads import CollectiveBench

GROUP = "all"


@dataclass(frozen=True)
class CollectiveLoop:
    """A plan lowered to rank programs."""

    plan: Plan
    bench: CollectiveBench

    @property
    def groups(self) -> Mapping[str, Groups]:
        """Give the one group that all ranks are in."""
        return {GROUP: Groups(GROUP, np.arange(self.plan.ranks).reshape(1, -1))}

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Count an input and an output."""
        return {"buffers": 2 * self.bench.size, "total": 2 * self.bench.size}

    def key(self, rank: int) -> Hashable:
        """All ranks do the same."""
        return None

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        effects = [
            Collective(
                self.bench.collective, GROUP, self.bench.size, GROUP, bucket=number if self.bench.times > 1 else None
            )
            for number in range(self.bench.times if self.plan.ranks > 1 else 0)
        ]
        for step in range(self.plan.run.warmup + self.plan.run.steps):
            yield Mark("step_begin", step)
            for effect in effects:
                handle = yield effect
                yield Wait(handle)
            yield Mark("step_end", step)
