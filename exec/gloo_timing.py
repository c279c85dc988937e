"""Timing gloo's collectives among ranks of this machine: elapsed and CPU seconds by number of ranks and size.

All ranks agree on a moment a little ahead and call the collective together. Its time is from the last rank's call to
the last rank's completion. *Idle*: the ranks sleep until the moment and wait for the collective; its CPU time is that
of all ranks' processes meanwhile. *Crowded*: every rank computes before, during and after, so that gloo's threads
must get hold of cores that are busy; each time one of them wakes, it may wait for a whole turn of the scheduler.
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

KINDS = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")
"""The collectives that can be timed."""

_GAP_S = 0.008
"""How far ahead the agreed moment lies: long enough for the threads of the agreement itself to come to rest."""
_BUDGET_S = 0.7
_FEWEST_TIMES = 4
_MOST_TIMES = 40
_UNIT = (64, 256)
"""Rows and width of the matrix product that ranks repeat while they crowd the cores: some 0.1 ms."""


class CollectiveTime(NamedTuple):
    """Means over the repetitions but for the lowest and the highest tenth.

    Not medians: where threads take turns on cores, one call takes a fraction of a turn and the next a whole one, and
    what a step of several collectives takes is a matter of the mean.
    """

    elapsed_s: float
    cpu_s: float


def time_collectives(
    kind: str,
    ranks: int,
    rank: int,
    sizes_bytes: tuple[int, ...],
    folder: Path,
    seat: Seat,
    *,
    crowded: bool = False,
) -> list[CollectiveTime]:
    """Take part in timing one kind of collective at each size; every rank gives the same result."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{kind}-{ranks}-{crowded}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    times = []
    for index, size_bytes in enumerate(sizes_bytes):
        seat.note(index, f"{kind} of {size_bytes} B", blocked=True)
        call = _caller(kind, ranks, rank, size_bytes)
        times.append(_time_size(lambda: (_time_crowded if crowded else _time_idle)(call)))  # noqa: B023 - used at once
    dist.destroy_process_group()
    return times


def _time_size(time_once: Callable[[], _Sample]) -> CollectiveTime:
    time_once()
    (first,) = _together([time_once()])
    repetitions = min(_MOST_TIMES, max(_FEWEST_TIMES, int(_BUDGET_S / (2 * first.elapsed_s + _GAP_S))))
    times = _together([time_once() for _ in range(repetitions)])
    return CollectiveTime(_trimmed_mean([t.elapsed_s for t in times]), _trimmed_mean([t.cpu_s for t in times]))


def _trimmed_mean(values: list[float]) -> float:
    """Give the mean without the lowest and the highest tenth.

    >>> _trimmed_mean([1.0, 2.0, 3.0])
    2.0
    """
    cut = len(values) // 10
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


class _Sample(NamedTuple):
    start_s: float
    end_s: float
    cpu_s: float


def _agree_on_moment() -> float:
    moment = torch.tensor([time.perf_counter() + _GAP_S], dtype=torch.float64)
    dist.all_reduce(moment, dist.ReduceOp.MAX)
    return moment.item()


def _time_crowded(call: Callable[[], dist.Work]) -> _Sample:
    rows, width = _UNIT
    left, right = torch.ones(rows, width), torch.ones(width, width)
    moment_s = _agree_on_moment()
    while time.perf_counter() < moment_s:
        torch.mm(left, right)
    cpu_ns = time.process_time_ns()
    start_s = time.perf_counter()
    work = call()
    end_s: list[float] = []
    future = work.get_future().then(lambda _: end_s.append(time.perf_counter()))
    while not end_s:
        torch.mm(left, right)
    future.wait()
    return _Sample(start_s, end_s[0], (time.process_time_ns() - cpu_ns) * 1e-9)


def _time_idle(call: Callable[[], dist.Work]) -> _Sample:
    time.sleep(max(0.0, _agree_on_moment() - time.perf_counter()))
    cpu_ns = time.process_time_ns()
    start_s = time.perf_counter()
    call().wait()
    end_s = time.perf_counter()
    return _Sample(start_s, end_s, (time.process_time_ns() - cpu_ns) * 1e-9)


def _together(samples: list[_Sample]) -> list[CollectiveTime]:
    """Combine all ranks' samples of the same calls."""
    ends = torch.tensor([(sample.start_s, sample.end_s) for sample in samples], dtype=torch.float64)
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    cpu = torch.tensor([sample.cpu_s for sample in samples], dtype=torch.float64)
    dist.all_reduce(cpu)
    elapsed = (ends[:, 1] - ends[:, 0]).clamp(min=1e-6)
    return [CollectiveTime(*pair) for pair in zip(elapsed.tolist(), cpu.clamp(min=1e-6).tolist(), strict=True)]


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
