"""Strategy: what every way of splitting a plan over ranks offers to both back ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol, Self

from twinstep.effects import Program, Transfer
from twinstep.plan import Plan
from twinstep.programs.groups import Groups


class Defaults:
    """What holds of strategies that say nothing else: ranks know the order of what they do, the same in every step."""

    plan: Plan

    @property
    def reactive(self) -> tuple[int, ...]:
        """List nobody."""
        return ()

    @property
    def period(self) -> int:
        """Give one step."""
        return 1

    def later_messages(self, rank: int) -> Sequence[Transfer]:
        """List none."""
        del rank
        return ()

    @cached_property
    def outline(self) -> Self:
        """Give the same programs without learning."""
        plan = self.plan
        if not plan.run.learning:
            return self
        still = plan.model_copy(update={"run": plan.run.model_copy(update={"learning": False})})
        return replace(self, plan=still)  # type: ignore[type-var]


class Strategy(Protocol):
    """A plan lowered to rank programs."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    @property
    def groups(self) -> Mapping[str, Groups]:
        """The groups that communicate, by kind."""
        ...

    @property
    def reactive(self) -> tuple[int, ...]:
        """List the ranks that take what comes first."""
        ...

    @property
    def period(self) -> int:
        """Give the steps after which programs repeat."""
        ...

    @property
    def outline(self) -> Strategy:
        """Give the same programs without learning: for who wants to know what they do, and not to do it."""
        ...

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part, and their `total`."""
        ...

    def later_messages(self, rank: int) -> Sequence[Transfer]:
        """List messages that a rank may send although its first steps, run alone, do not show it."""
        ...

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        ...

    def key(self, rank: int) -> Hashable:
        """Give what a rank's program depends on: ranks of equal keys do the same, each in its own groups."""
        ...
