"""The executor's step against the same GPT loop written by hand with DistributedDataParallel.

Both run in the same two processes, block by block in turns, on the same layers, batches, bucket size and optimizer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from twinstep.exec.board import Board
from twinstep.exec.data import batches
from twinstep.exec.device import HostDevice
from twinstep.exec.engine import run_program
from twinstep.exec.models import build_layers, loss_sum, loss_terms, make_optimizer
from twinstep.exec.training import Training
from twinstep.plan import Plan
from twinstep.programs import DataParallel
from twinstep.scenario import load_scenario

BLOCKS = 24
STEPS = 8
RANKS = 2


class ByHand:
    """The training loop that a user of torch would write."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self._workload = plan.training
        self._batches = batches(plan, DataParallel(plan).shards[rank])
        layers = build_layers(plan.training, plan.run.seed)
        bucket_mib = plan.sync.bucket / 2**20
        self._model = DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=bucket_mib)
        self._optimizer = make_optimizer(plan.training, layers)
        self._scale = plan.ranks / loss_terms(plan.training)

    def run(self, steps: int) -> None:
        for step in range(steps):
            inputs, targets = self._batches.batch(step)
            self._optimizer.zero_grad()
            loss = loss_sum(self._workload, self._model(inputs), targets) * self._scale
            loss.backward()
            self._optimizer.step()


class ByProgram:
    """The same, as a rank program on the executor."""

    def __init__(self, plan: Plan, rank: int, folder: Path) -> None:
        self._programs = DataParallel(plan)
        self._rank = rank
        self._seat = Board(folder / f"board-{rank}", 1).seat(0)
        groups = {"data": dist.new_group(list(range(RANKS)))}
        self._device = HostDevice(Training(self._programs, rank, torch.device("cpu")), groups, slowdown=1.0)

    def run(self) -> None:
        run_program(self._programs.program(self._rank), self._device, self._seat)


def executor_ratio() -> list[float]:
    """Give, for each pair of blocks, executor time / hand-written time on the slower rank."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [context.Process(target=_work, args=(rank, Path(folder))) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout=300)
        times = [json.loads((Path(folder) / f"times-{rank}").read_text()) for rank in range(RANKS)]
    pairs = [[max(block) for block in zip(*side, strict=True)] for side in zip(*times, strict=True)]
    return [program_s / hand_s for program_s, hand_s in zip(*pairs, strict=True)]


def _work(rank: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    plan = load_scenario("gpt-data-parallel", [f"run.steps={STEPS}", "run.warmup=0"]).plan
    by_program, by_hand = ByProgram(plan, rank, folder), ByHand(plan, rank)
    times: list[list[float]] = [[], []]
    by_program.run()
    by_hand.run(STEPS)
    for _ in range(BLOCKS):
        dist.barrier()
        begin_s = time.perf_counter()
        by_program.run()
        middle_s = time.perf_counter()
        dist.barrier()
        after_s = time.perf_counter()
        by_hand.run(STEPS)
        times[0].append(middle_s - begin_s)
        times[1].append(time.perf_counter() - after_s)
    (folder / f"times-{rank}").write_text(json.dumps(times))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    print(f"median ratio {statistics.median(executor_ratio()):.3f}")
