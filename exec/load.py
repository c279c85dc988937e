"""What others do meanwhile: a run on a busy machine is a measurement of something else."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_BUSY_FIELDS = (0, 1, 2, 5, 6)
"""user, nice, system, irq and softirq of a line of /proc/stat."""
_STOLEN_FIELD = 7
"""What the hypervisor gave to other machines while something here wanted to run."""


class OtherLoad:
    """Watches the machine from its making on."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()
        self._begin_other_s = _others_s()

    def cores(self) -> float:
        """Give how many cores, on average, others than this process and its ended children have kept busy.

        Those are processes, and other virtual machines on the same cores.
        """
        other_s = _others_s() - self._begin_other_s
        return max(0.0, other_s / (time.monotonic() - self._begin_s))


def busy_s() -> float:
    """Give the seconds that the cores this process may use have been busy since the machine started; 0 if unknown."""
    return _spent_s(_BUSY_FIELDS)


def _spent_s(fields: tuple[int, ...]) -> float:
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = (line.split()[1:] for line in lines if line.partition(" ")[0] in names)
    return sum(int(core[field]) for core in ticks for field in fields) / os.sysconf("SC_CLK_TCK")


def _others_s() -> float:
    return _spent_s((*_BUSY_FIELDS, _STOLEN_FIELD)) - _own_s()


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
