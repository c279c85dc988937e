"""Ranks of torch.distributed for tests: processes of this machine that speak gloo, forked where torch is imported.

They are forked from a server of multiprocessing's, one for each process of pytest, which imports torch and twinstep's
wrappers once. A rank that started Python by itself would take seconds to do so.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

Found = TypeVar("Found")

TIMEOUT_S = 300.0
_WAIT = timedelta(seconds=150)
_IMPORTED = ["torch.distributed.fsdp", "torch.profiler", "twinstep.exec.native.training", "pytest"]


def run_ranks(act: Callable[..., Found], ranks: int, folder: Path, *arguments: Any) -> list[Found]:
    """Do `act(rank, *arguments)` in a process a rank, all of one group; give what they found, by rank.

    Raises what torch raises for the first rank that fails, with its traceback, and TimeoutError.
    """
    multiprocessing.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:  # so that the processes find the tests' modules
        patch.syspath_prepend(Path(__file__).parents[1])
        context = processes.start_processes(
            _rank, (act, ranks, folder, arguments), nprocs=ranks, join=False, start_method="forkserver"
        )
    _wait_for(context)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _wait_for(context: processes.ProcessContext) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    try:
        while not context.join(timeout=max(0.0, end_s - time.monotonic())):  # comes back as each of them ends
            if time.monotonic() >= end_s:
                raise TimeoutError(f"ranks have not ended after {TIMEOUT_S} s")
    finally:
        for process in context.processes:
            process.kill()


def _rank(rank: int, act: Callable[..., Any], ranks: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=_WAIT)
    torch.save(act(rank, *arguments), folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads, still running, may abort a process that Python takes down in order
