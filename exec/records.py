"""Records: what each rank of a run hands in, and all of them together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from twinstep.memory_use import MemoryUse
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.timeline import Observation, Span, Timeline


class Records(NamedTuple):
    """What one rank has recorded."""

    spans: list[Span]
    observations: list[Observation]
    losses: tuple[float, ...]
    """The global loss of every step; empty where compute is emulated."""
    memory: MemoryUse | None
    """None where there was nothing to measure."""

    @classmethod
    def from_json(cls, text: str | bytes) -> Records:
        """Read what json.dumps made of one."""
        spans, observations, losses, memory = json.loads(text)
        return cls(
            [Span(*each) for each in spans],
            [Observation(*each) for each in observations],
            tuple(losses),
            MemoryUse(*memory) if memory else None,
        )


def timeline_of(plan: Plan, records: Mapping[int, Records]) -> Timeline:
    """Put together what the ranks of a plan have recorded; one without records has died."""
    programs = lower(plan)
    spans = [span for each in records.values() for span in each.spans]
    observations = [observation for each in records.values() for observation in each.observations]
    return Timeline(
        tuple(sorted(spans, key=lambda span: (span.rank, span.start_s, span.lane, span.operation))),
        ranks=plan.ranks,
        warmup_steps=plan.run.warmup,
        observations=tuple(sorted(observations, key=lambda each: (each.time_s, each.rank))),
        reactive=programs.reactive,
        lost=tuple(rank for rank in range(plan.ranks) if rank not in records),
        period=programs.period,
    )


def memory_of(records: Mapping[int, Records]) -> dict[int, MemoryUse]:
    """Give what the ranks hold, of those where it was measured."""
    return {rank: each.memory for rank, each in records.items() if each.memory}
