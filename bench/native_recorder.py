"""What recording costs the native engine: its loop against the same wrappers in a loop that nobody watches.

Both run in the same two processes, block by block in turns. Where nobody watches, torch's operators have no kernel of
ours either.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from twinstep.exec.board import Board
from twinstep.exec.data import batches
from twinstep.exec.models import build_layers, loss_sum, loss_terms
from twinstep.exec.native.data_sharing import share_data
from twinstep.exec.native.mesh import device_mesh, replica_mesh
from twinstep.exec.native.training import NativeTraining
from twinstep.plan import Plan
from twinstep.programs import lower, shards
from twinstep.scenario import load_scenario

BLOCKS = 24
STEPS = 8
RANKS = 2


class Unwatched:
    """The training loop that a user of torch would write."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._workload = plan.training
        self._batches = batches(plan, shards(plan.training.samples, RANKS)[rank])
        model = nn.Sequential(*build_layers(plan.training, plan.run.seed))
        self._shared = share_data(model, plan, replica_mesh(device_mesh(plan.partition, "cpu"), plan.partition))
        self._scale = RANKS / loss_terms(plan.training)

    def run(self) -> None:
        for step in range(STEPS):
            inputs, targets = self._batches.batch(step)
            loss = loss_sum(self._workload, self._shared.module(inputs), targets) * self._scale
            loss.backward()
            self._shared.optimizer.step()
            self._shared.optimizer.zero_grad()


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Give the time that something takes, and the time of all cores for this process."""
    dist.barrier()
    begin = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def ratios(*overrides: str) -> tuple[list[float], list[float]]:
    """Give, for each pair of blocks, watched / unwatched time on the slower rank, and of both ranks' processors."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [context.Process(target=_work, args=(rank, Path(folder), overrides)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout=300)
        first, second = (json.loads((Path(folder) / f"times-{rank}").read_text()) for rank in range(RANKS))
    pairs = list(zip(first, second, strict=True))
    wall = [max(a[0][0], b[0][0]) / max(a[1][0], b[1][0]) for a, b in pairs]
    return wall, [(a[0][1] + b[0][1]) / (a[1][1] + b[1][1]) for a, b in pairs]


def _work(rank: int, folder: Path, overrides: tuple[str, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    short = ["run.engine=native", f"run.steps={STEPS - 2}", "run.warmup=2"]
    plan = load_scenario("gpt-data-parallel", [*short, *overrides]).plan
    seat = Board(folder / f"board-{rank}", 1).seat(0)
    watched, unwatched = NativeTraining(lower(plan), rank, torch.device("cpu"), seat), Unwatched(plan, rank)
    watched.train()
    unwatched.run()
    times = []
    for _ in range(BLOCKS):
        times.append((seconds(watched.train), seconds(unwatched.run)))
    (folder / f"times-{rank}").write_text(json.dumps(times))
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    for partition in ("data=2", "sharding=parameters"):
        wall, processors = ratios(f"partition.{partition}")
        medians = statistics.median(wall), statistics.median(processors)
        print(f"{partition}: median ratio of times {medians[0]:.3f}, of processor times {medians[1]:.3f}")
