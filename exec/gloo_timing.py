"""Timing gloo's collectives among ranks of this machine: elapsed and CPU seconds by number of ranks and size.

All ranks agree on a moment a little ahead, sleep until then and call the collective together. Its time is from the
last rank's call to the last rank's return, its CPU time that of all ranks' processes meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from twinstep.exec.board import Seat

_GAP_S = 0.008
"""How far ahead the agreed moment lies: long enough for the threads of the agreement itself to come to rest."""
_BUDGET_S = 0.9
_FEWEST_TIMES = 5
_MOST_TIMES = 25


class CollectiveTime(NamedTuple):
    """Medians over the repetitions."""

    elapsed_s: float
    cpu_s: float


def time_collectives(
    kind: str, ranks: int, rank: int, sizes_bytes: tuple[int, ...], folder: Path, seat: Seat
) -> list[CollectiveTime]:
    """Take part in timing one kind of collective at each size; every rank gives the same result."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{kind}-{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    times = []
    for index, size_bytes in enumerate(sizes_bytes):
        seat.note(index, f"{kind} of {size_bytes} B", blocked=True)
        times.append(_time_size(_caller(kind, ranks, rank, size_bytes), rank))
    dist.destroy_process_group()
    return times


def _time_size(call: Callable[[], dist.Work], rank: int) -> CollectiveTime:
    _time_once(call)
    first = _together(_time_once(call))
    repetitions = min(_MOST_TIMES, max(_FEWEST_TIMES, int(_BUDGET_S / (2 * first.elapsed_s + _GAP_S))))
    samples = [_together(_time_once(call)) for _ in range(repetitions)]
    return CollectiveTime(
        statistics.median(sample.elapsed_s for sample in samples),
        statistics.median(sample.cpu_s for sample in samples),
    )


class _Sample(NamedTuple):
    start_s: float
    end_s: float
    cpu_s: float


def _time_once(call: Callable[[], dist.Work]) -> _Sample:
    moment = torch.tensor([time.perf_counter() + _GAP_S], dtype=torch.float64)
    dist.all_reduce(moment, dist.ReduceOp.MAX)
    time.sleep(max(0.0, moment.item() - time.perf_counter()))
    cpu_ns = time.process_time_ns()
    start_s = time.perf_counter()
    call().wait()
    end_s = time.perf_counter()
    return _Sample(start_s, end_s, (time.process_time_ns() - cpu_ns) * 1e-9)


def _together(sample: _Sample) -> CollectiveTime:
    """Combine all ranks' samples of one call."""
    latest = torch.tensor([sample.start_s, sample.end_s], dtype=torch.float64)
    dist.all_reduce(latest, dist.ReduceOp.MAX)
    cpu = torch.tensor([sample.cpu_s], dtype=torch.float64)
    dist.all_reduce(cpu)
    return CollectiveTime(max(float(latest[1] - latest[0]), 1e-6), max(cpu.item(), 1e-6))


def _caller(kind: str, ranks: int, rank: int, size_bytes: int) -> Callable[[], dist.Work]:
    """Give a function that calls the collective; `size_bytes` is a rank's whole buffer."""
    whole = torch.zeros(size_bytes // 4)
    parts = list(torch.zeros(ranks * (size_bytes // 4 // ranks)).chunk(ranks))
    calls: dict[str, Callable[[], dist.Work]] = {
        "all_reduce": lambda: dist.all_reduce(whole, async_op=True),
        "broadcast": lambda: dist.broadcast(whole, 0, async_op=True),
        "reduce": lambda: dist.reduce(whole, 0, async_op=True),
        "all_gather": lambda: dist.all_gather(parts, parts[rank].clone(), async_op=True),
        "reduce_scatter": lambda: dist.reduce_scatter(parts[0].clone(), parts, async_op=True),
        "all_to_all": lambda: dist.all_to_all_single(torch.cat(parts), torch.cat(parts), async_op=True),
        "gather": lambda: dist.gather(parts[rank], parts if rank == 0 else None, 0, async_op=True),
        "scatter": lambda: dist.scatter(parts[rank].clone(), parts if rank == 0 else None, 0, async_op=True),
    }
    return calls[kind]
