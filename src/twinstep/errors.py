"""The ways a command can fail: its input is bad (exit 2), its run failed, or somebody ended it (exit 3)."""

from __future__ import annotations


class InputError(Exception):
    """A scenario, topology, profile or option that cannot be used.

    The message names the place, the value and the remedy; the command line prints it alone and exits with 2.
    """

    exit_code = 2

    def __init__(self, problem: str, *, remedy: str = "", place: str = "", line: int | None = None) -> None:
        where = f"{place}:{line}" if place and line is not None else place
        super().__init__("\n".join(part for part in (f"{where}: {problem}" if where else problem, remedy) if part))
        self.problem = problem
        self.remedy = remedy


class RunError(Exception):
    """A run that started and did not finish: a rank died, hung or raised. Exit code 3."""

    exit_code = 3


class EndedError(Exception):
    """The user, or the system, has ended the command by a signal. Exit code 3."""

    exit_code = 3
