"""The supervisor: runs a plan's ranks on this machine, in a process and a session of its own.

`measure` starts it through `crew.py`. Torch is imported once, before the ranks are forked. Ranks meet through a file in
a private folder and talk on the loopback interface, so nothing listens outside this machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

from twinstep.exec.board import Board
from twinstep.exec.crew import run_crew, say
from twinstep.exec.rank import read_job, run_rank, write_result


def main(folder: Path) -> int:
    """Run the job described in `folder`; give 0 where every rank ended well, else 3."""
    use_loopback()
    job = read_job(folder)
    plan = job.plan
    if plan.run.compute == "real":
        _import_for_ranks()
    board = Board(folder / "board", plan.ranks)

    def work(rank: int) -> None:
        store = dist.FileStore(str(folder / "store"), plan.ranks)
        result = run_rank(job, rank, store, board.seat(rank), local_rank=rank)
        if result is not None:
            write_result(result, folder)

    def report() -> None:
        say(event="progress", step=min(board.read(rank).step for rank in range(plan.ranks)))

    failure = run_crew(board, folder, plan.run.timeout, work, report)
    if failure:
        say(event="failed", message=failure)
        return 3
    say(event="done")
    return 0


def use_loopback() -> None:
    """Keep gloo and NCCL on the loopback interface."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"


def _import_for_ranks() -> None:
    """Import, before the fork, what every rank would import for itself: almost two seconds of a core each."""
    import sklearn.datasets
    import sklearn.preprocessing  # noqa: F401 - for the ranks

    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports torch's compiler
