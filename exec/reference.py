"""The reference: a product of small matrices, timed between steps, tells how fast a core is just then.

A virtual machine's cores are as fast as others leave them that share their caches and hyper-threads, or as their clock
is: half as fast in one second as in the next, with nothing else on the machine, and no counter of its own shows it. So
the same product is timed while kernels are calibrated and while a plan runs, in the thread's own CPU time: ranks that
take a core from one another do not make it slower.
"""

from __future__ import annotations

import time

import torch

from twinstep.core_speed import REFERENCE
from twinstep.exec.pending import Observed, now_ns

_SIZE = 256
"""Two such matrices (512 KiB) about fit a core's own cache, so that the memory which cores share matters little."""
_SHARE = 0.01
"""The largest part of a rank's time that goes into references."""


class Reference:
    """The product of one rank, or process of a calibration."""

    def __init__(self) -> None:
        self._matrix = torch.ones(_SIZE, _SIZE)
        self._product = torch.empty(_SIZE, _SIZE)
        self._due_ns = 0

    def seconds(self) -> float:
        """Give the CPU seconds of the product; it is computed once before, which brings the matrices into the cache."""
        torch.mm(self._matrix, self._matrix, out=self._product)
        start_ns = time.thread_time_ns()
        torch.mm(self._matrix, self._matrix, out=self._product)
        return (time.thread_time_ns() - start_ns) * 1e-9

    def due(self, step: int) -> list[Observed]:
        """Time it before a step; nothing where it was timed a moment ago."""
        start_ns = now_ns()
        if start_ns < self._due_ns:
            return []
        found = (step, start_ns, REFERENCE, self.seconds())
        end_ns = now_ns()
        self._due_ns = end_ns + round((end_ns - start_ns) / _SHARE)
        return [found]
