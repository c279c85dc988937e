"""Strategy: what every way of splitting a plan over ranks offers to both back ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol

from twinstep.effects import Program
from twinstep.plan import Plan
from twinstep.programs.groups import Groups


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

    def memory_bytes(self, rank: int) -> dict[str, int]:
        """Estimate a rank's peak memory by part, and their `total`."""
        ...

    def program(self, rank: int) -> Program:
        """Give a rank's behaviour for the whole run, warm-up steps first."""
        ...

    def key(self, rank: int) -> Hashable:
        """Give what a rank's program depends on: ranks of equal keys do the same, each in its own groups."""
        ...
