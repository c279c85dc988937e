"""What the executor itself costs an effect: timed by running programs that do nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from twinstep.effects import Collective, Compute, Mark, Program, Wait
from twinstep.exec.board import Seat
from twinstep.exec.calls import Joined
from twinstep.exec.device import HostDevice
from twinstep.exec.engine import run_program
from twinstep.programs.data_parallel import GROUP

_EFFECTS = 2000
_COLLECTIVES = 100


class _Nothing:
    """A training that computes nothing and has one bucket of one element."""

    def __init__(self) -> None:
        self._bucket = torch.zeros(1)

    def payload(self, bucket: int, number: int) -> torch.Tensor:
        """Give the one bucket."""
        return self._bucket

    def run(self, effect: Compute, step: int) -> None:
        """Do nothing."""


def time_overheads(rank: int, folder: Path, seat: Seat) -> dict[str, float]:
    """Give CPU seconds of this process for each field of `HostOverheads`; two ranks must call it."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store-overheads"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    group = dist.new_group([0, 1])
    device = HostDevice(_Nothing(), {GROUP: Joined(group, (0, 1), rank)}, slowdown=1.0)  # type: ignore[arg-type]
    compute_s = _thread_seconds(lambda: run_program(_computations(), device, seat)) / _EFFECTS
    dist.barrier()
    launch_s, wait_s = _collective_seconds(device)
    dist.barrier()
    dist.destroy_process_group()
    return {"compute_s": compute_s, "launch_s": launch_s, "wait_s": wait_s}


def _computations() -> Program:
    yield Mark("step_begin", 0)
    effect = Compute("forward", (), 0)
    for _ in range(_EFFECTS):
        yield effect


def _collective_seconds(device: HostDevice) -> tuple[float, float]:
    effect = Collective("all_reduce", group=GROUP, size_bytes=4, lane=GROUP, bucket=0)
    launch_s = wait_s = 0.0
    for _ in range(_COLLECTIVES):
        begin_s = time.thread_time()
        handle = device.issue(effect)
        issued_s = time.thread_time()
        time.sleep(0.002)
        waiting_s = time.thread_time()
        device.wait(Wait(handle))
        launch_s += issued_s - begin_s
        wait_s += time.thread_time() - waiting_s
    return launch_s / _COLLECTIVES, wait_s / _COLLECTIVES


def _thread_seconds(function: Callable[[], None]) -> float:
    begin_s = time.thread_time()
    function()
    return time.thread_time() - begin_s
