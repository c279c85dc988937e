"""The supervisor: runs a plan's ranks on this machine, in a process and a session of its own.

`measure` starts it through `crew.py`. Torch is imported once, before the ranks are forked. Ranks meet through a file in
a private folder and talk on the loopback interface, so nothing listens outside this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from twinstep.exec.board import Board
from twinstep.exec.crew import run_crew, say
from twinstep.exec.rank import Job, read_job, run_rank, write_result
from twinstep.learning.data import data_of
from twinstep.programs import SharedMemory, Strategy


def main(folder: Path) -> int:
    """Run the job described in `folder`; give 0 where every rank ended well, else 3."""
    use_loopback()
    job = read_job(folder)
    return run_job(job, folder, Board(folder / "board", job.plan.ranks))


def _nothing(*_: object) -> None:
    pass


def run_job(
    job: Job,
    folder: Path,
    board: Board,
    prepare: Callable[[int], None] = _nothing,
    on_poll: Callable[[], None] = _nothing,
    on_end: Callable[[], None] = _nothing,
) -> int:
    """Run all ranks of a job, each of which calls `prepare` first; give 0 where every one ended well, else 3.

    Seats of the board beyond the ranks are for others, whose `prepare` does all they do. `on_end` is called once all
    has ended well.
    """
    plan = job.plan
    _load_for_ranks(job.programs)

    def work(seat: int) -> None:
        prepare(seat)
        if seat < plan.ranks:
            store = dist.FileStore(str(folder / "store"), plan.ranks)
            own = board.seat(seat)
            write_result(run_rank(job, seat, store, own, own.wait_to_leave, local_rank=seat), folder, seat)

    def report() -> None:
        say(event="progress", step=min(board.read(rank).step for rank in board.living))
        on_poll()

    failure = run_crew(board, folder, plan.run.timeout, work, report, plan.lost_with)
    if failure:
        say(event="failed", message=failure)
        return 3
    on_end()
    say(event="done")
    return 0


def use_loopback() -> None:
    """Keep gloo and NCCL on the loopback interface."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"


def _load_for_ranks(programs: Strategy) -> None:
    """Before the fork make what ranks share, and load what each would load for itself: almost two seconds of a core."""
    plan = programs.plan
    if isinstance(programs, SharedMemory):
        programs.memory.make()
    if plan.run.learning:
        data_of(plan.training)
    if plan.run.compute == "emulated":
        return
    import sklearn.datasets
    import sklearn.preprocessing  # noqa: F401 - for the ranks

    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports torch's compiler
    if plan.run.engine == "native":
        import twinstep.exec.native.training  # noqa: F401 - for the ranks
