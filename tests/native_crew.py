"""A crew of ranks that run many plans by the native engine, one after the other: they import torch and meet once."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor

from twinstep.exec.board import Board, Seat
from twinstep.exec.rank import Records, _to_span
from twinstep.exec.records import timeline_of
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.timeline import Span, Timeline

TIMEOUT_S = 300
_WAIT = timedelta(seconds=60)


class Trained(NamedTuple):
    """What a plan's ranks have done and learnt."""

    timeline: Timeline
    losses: Tensor
    """Of all steps, of the global batch."""
    parameters: dict[str, Tensor]
    """After the last step, as rank 0 has put them together."""


class _OfRank(NamedTuple):
    spans: list[Span]
    losses: Tensor
    parameters: dict[str, Tensor]


def train(plans: Mapping[str, Plan], folder: Path) -> dict[str, Trained]:
    """Run plans of equally many ranks in processes of their own."""
    (ranks,) = {plan.ranks for plan in plans.values()}
    torch.save(dict(plans), folder / "plans.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.native_crew", str(folder), str(ranks)]
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        command, timeout=TIMEOUT_S, cwd=root, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
    return {name: _together(plan, [each[name] for each in found]) for name, plan in plans.items()}


def _together(plan: Plan, found: list[_OfRank]) -> Trained:
    records = {rank: Records(each.spans, [], (), None) for rank, each in enumerate(found)}
    losses = torch.stack([each.losses for each in found]).sum(0)
    return Trained(timeline_of(plan, records), losses, found[0].parameters)


def _rank(rank: int, folder: Path, ranks: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=_WAIT)
    plans = torch.load(folder / "plans.pt", weights_only=False)
    seat = Board(folder / "board", ranks).seat(rank)
    found = {}
    for name, plan in plans.items():
        try:
            found[name] = _run(plan, rank, seat)
        except Exception:
            sys.stderr.write(f"{name}, rank {rank}: {traceback.format_exc()}\n")
            os._exit(1)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads, still running, may abort a process that Python takes down in order


def _run(plan: Plan, rank: int, seat: Seat) -> _OfRank:
    from twinstep.exec.native.training import NativeTraining  # a deprecation in torch would end pytest

    training = NativeTraining(lower(plan), rank, torch.device("cpu"), seat)
    training.run()
    spans = [_to_span(rank, 0, record) for record in training.records()]
    return _OfRank(spans, training.losses(), dict(training.parameters()))


if __name__ == "__main__":
    from tests import native_crew  # so that what is pickled has this name

    import twinstep.exec.native.training  # noqa: F401 - for the ranks

    processes.start_processes(
        native_crew._rank, (Path(sys.argv[1]), int(sys.argv[2])), nprocs=int(sys.argv[2]), start_method="fork"
    )
