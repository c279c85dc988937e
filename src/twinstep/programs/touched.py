"""Touched: how many parameters each worker's batches touch, and how large messages are that carry only those.

Worker w touches t_jw(s) of server j's parameters in step s: the features that occur in its rows, and the bias. With
`sync.servers.sparse` it pushes a key and a gradient for each of them, and the keys that it wants next:

    push    8 + 8 t_jw(s) + 4 t_jw(s + 1) bytes        answer    8 + 4 t_jw(s + 1) bytes

where 8 bytes are a header: the step, and how many follow. After the last step nothing is wanted. Dense keys take 4
bytes for each of a server's parameters, both ways. So, but for headers, sparse keys are 16 bytes a step for each
parameter that is touched against 8 for each that there is: fewer where a batch touches less than half of them.

Which rows a worker has in a step follows from the plan's seed, so both ends know all sizes before a message comes. A
service that does not know its workers' data would send the size first, which is one message of a few bytes more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twinstep.kernels import ELEMENT_BYTES
from twinstep.learning import Share
from twinstep.learning.data import CsrRows, data_of, drawn
from twinstep.learning.learners import Keys
from twinstep.learning.sparse import HEADER, server_of, touched
from twinstep.plan import Plan
from twinstep.workloads import Model, SparseLogisticRegression, SparseRows, describe_sparse

Ints = NDArray[np.int64]

HEADER_BYTES = HEADER * ELEMENT_BYTES
PAIR_BYTES = 2 * ELEMENT_BYTES
"""A key and a gradient."""


@dataclass(frozen=True, eq=False)
class Touched:
    """What the batches of a plan touch, worker by worker and step by step."""

    workload: SparseLogisticRegression
    shares: Sequence[Share]
    sparse: bool
    """Whether messages carry nothing else."""
    nonzeros: Ints
    """(steps, workers)."""
    keys: Ints
    """Of each server (steps + 1, workers, servers); none in the step after the last."""

    def model(self, worker: int, step: int) -> Model:
        """Describe what a worker computes in a step; without sparse keys it clears the gradients of all parameters."""
        count = int(self.keys[step, worker].sum())
        rows = SparseRows(len(self.shares[worker]), max(1, int(self.nonzeros[step, worker])), count)
        return describe_sparse(self.workload, rows, count if self.sparse else self.workload.features + 1)

    def pairs(self, server: int, worker: int, step: int) -> int:
        """Count the gradients that a worker pushes to a server."""
        return int(self.keys[step, worker, server])

    def worker_bytes(self, worker: int) -> dict[str, int]:
        """Give the most that a worker has of parameters, and of gradients with their keys."""
        most = int(self.keys[:, worker].sum(axis=1).max())
        return {"parameters": ELEMENT_BYTES * most, "gradients": PAIR_BYTES * most}

    def received_bytes(self, server: int) -> int:
        """Give the most that a server has received of all workers: gradients with their keys."""
        return PAIR_BYTES * int(self.keys[:, :, server].max(axis=0).sum())

    def push_bytes(self, server: int, worker: int, step: int) -> int:
        """Give the bytes of a worker's push to a server; of the header alone after the last step."""
        if step + 1 == len(self.keys):
            return HEADER_BYTES
        pairs, wanted = self.keys[step : step + 2, worker, server].tolist()
        return int(HEADER_BYTES + PAIR_BYTES * pairs + ELEMENT_BYTES * wanted)

    def answer_bytes(self, server: int, worker: int, step: int) -> int:
        """Give the bytes of a server's answer to the push of a step."""
        return HEADER_BYTES + ELEMENT_BYTES * self.pairs(server, worker, step + 1)


def touched_by(plan: Plan, shares: Sequence[Share], keys: Keys) -> Touched | None:
    """Count what a plan's batches touch; None for a workload whose batches touch everything."""
    if not isinstance(plan.workload, SparseLogisticRegression):
        return None
    batches = tuple(share.batch for share in shares)
    ranges = tuple(tuple(parts) for parts in keys)
    nonzeros, counts = _counted(plan.workload, plan.run.seed, plan.total_steps, batches, ranges)
    return Touched(plan.workload, shares, plan.sync.servers.sparse, nonzeros, counts)


@lru_cache(maxsize=4)
def _counted(
    workload: SparseLogisticRegression,
    seed: int,
    steps: int,
    batches: tuple[range, ...],
    keys: tuple[tuple[range, ...], ...],
) -> tuple[Ints, Ints]:
    """Count non-zeros (steps, workers), and touched parameters (steps + 1, workers, servers)."""
    data, server = data_of(workload), server_of(keys)
    inputs: CsrRows = data.inputs
    nonzeros = np.zeros((steps, len(batches)), np.int64)
    counts = np.zeros((steps + 1, len(batches), len(keys)), np.int64)
    for step in range(steps):
        order = drawn(len(data.targets), seed, step)
        for worker, batch in enumerate(batches):
            rows = inputs[order[batch.start : batch.stop]]
            nonzeros[step, worker] = rows.nnz
            counts[step, worker] = np.bincount(server[touched(rows)], minlength=len(keys))
    return nonzeros, counts
