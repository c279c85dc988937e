"""Hybrid plans of a small GPT, and what a rank does in a step."""

from __future__ import annotations

from typing import Any

from tests.small_plans import make, star

from twinstep.effects import Effect
from twinstep.partition import Partition
from twinstep.plan import Plan
from twinstep.programs import first_steps, lower

GPT = {"kind": "gpt", "layers": 4, "heads": 4, "width": 32, "context": 16, "batch": 16}
WIDE = "1000 GiB"
"""A bucket that holds everything."""


def plan_of(workload: dict[str, Any] | None = None, **partition: Any) -> Plan:
    ranks = Partition.model_validate(partition)
    hosts = ranks.ranks
    sync = {} if ranks.shards_gradients else {"bucket": WIDE}
    changes = {"workload": GPT | (workload or {}), "partition": partition, "sync": sync}
    plan, _ = make(star(hosts), **changes)
    return plan


def effects_of(plan: Plan, rank: int = 0) -> list[Effect]:
    return first_steps(lower(plan).program(rank))
