"""Timing gloo's collectives and messages among ranks of this machine, by number of ranks and size.

Ranks do what they do in training: they sleep or compute for a while, call the collective, go on when it is complete,
and start over, so each call finds them as far apart as the last one has left them. A collective's time is from the
last rank's call to its completion on the last rank, in one of three conditions:

- *idle*: before the call the ranks sleep, afterwards they wait;
- *paired*: the same with two collectives of the size called at once, until both are complete;
- *crowded*: every rank computes before, during and after, so that gloo's threads must get hold of cores that are busy;
  each time one of them wakes, it may wait for a whole turn of the scheduler.

The end of what has no future on gloo is noted by a thread while the rank computes, as the executor does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist

from twinstep.exec.board import Seat
from twinstep.exec.calls import WITHOUT_FUTURE, Buffers, Joined, begin_collective, begin_message
from twinstep.exec.gloo_threads import keep_watchers_from_preempting
from twinstep.timeline import CollectiveKind

Condition = Literal["idle", "paired", "crowded"]
Timed = CollectiveKind | Literal["send"]
"""A collective, or a message from the first rank to the second."""
KINDS: tuple[CollectiveKind, ...] = (
    "all_reduce",
    "broadcast",
    "reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "gather",
    "scatter",
)
"""The collectives that can be timed."""

_GAP_S = 0.015
"""How long ranks do something else between two calls."""
_BUDGETS_S: dict[Condition, float] = {"idle": 0.9, "paired": 0.5, "crowded": 0.4}
"""For a size of an all-reduce; every other kind has half of it, as fewer plans use it."""
_FEWEST_TIMES = 4
_MOST_TIMES = 40
_ROUNDS = 2
"""Of two gathers and a reduce-scatter of the same buffer, which takes twice as long."""
_WATCHERS = ThreadPoolExecutor(2)
_UNIT = (64, 256)
"""Rows and width of the matrix product that ranks repeat while they crowd the cores: some 0.1 ms."""


class _Call(NamedTuple):
    """One rank's view of one call, on the machine's monotonic clock."""

    start_s: float
    end_s: float


Calls = Sequence[Callable[[], dist.Work]]
"""What begins communications that are under way at once."""
Timer = Callable[[Calls], _Call]


def time_collectives(
    kind: Timed,
    ranks: int,
    rank: int,
    sizes_bytes: tuple[int, ...],
    condition: Condition,
    folder: Path,
    seat: Seat,
    *,
    shares_cores: bool = False,
) -> list[float]:
    """Take part in timing one kind of communication; give seconds by size, the same on every rank.

    With `shares_cores` as on an emulated cluster.
    """
    world = _join(ranks, rank, folder / f"store-{kind}-{ranks}-{condition}", shares_cores)
    buffers, times = Buffers(), []
    for index, size_bytes in enumerate(sizes_bytes):
        seat.note(index, f"{kind} of {size_bytes} B", blocked=True)
        calls = [
            partial(_begin, kind, size_bytes, world, buffers, number)
            for number in range(2 if condition == "paired" else 1)
        ]
        budget_s = _BUDGETS_S[condition] / (1 if kind == "all_reduce" else 2)
        times.append(_time_size(_timer(kind, condition), calls, budget_s))
    dist.destroy_process_group()
    return times


def time_opposed(ranks: int, size_bytes: int, rank: int, folder: Path, seat: Seat) -> float:
    """Take part in timing gathers and reduce-scatters alone, and then two of them at a time, on an emulated cluster.

    Give the rate of two that are under way at once, as a fraction of that of each alone; the same on every rank.
    `size_bytes` is a rank's whole buffer.
    """
    world, buffers = _join(ranks, rank, folder / "store-opposed", shares_cores=True), Buffers()
    seat.note(0, "all_gather and reduce_scatter", blocked=True)
    gather, scatter = (
        partial(begin_collective, kind, size_bytes, world, buffers) for kind in ("all_gather", "reduce_scatter")
    )
    calls = [partial(call, number) for number, call in enumerate((gather, scatter, gather) * _ROUNDS)]
    alone_s = sum(
        count * _time_size(_time_idle, [partial(call, 0)], _BUDGETS_S["paired"])
        for call, count in ((gather, 2 * _ROUNDS), (scatter, _ROUNDS))
    )
    both_s = _time_size(_time_idle, calls, _BUDGETS_S["idle"])
    dist.destroy_process_group()
    return alone_s / both_s


def _join(ranks: int, rank: int, store: Path, shares_cores: bool) -> Joined:
    torch.set_num_threads(1)
    meeting_place = dist.FileStore(str(store), ranks)
    dist.init_process_group("gloo", store=meeting_place, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    if shares_cores:
        keep_watchers_from_preempting()
    return Joined(dist.distributed_c10d._get_default_group(), tuple(range(ranks)), rank)


def _begin(kind: Timed, size_bytes: int, world: Joined, buffers: Buffers, number: int) -> dist.Work:
    if kind == "send":
        return begin_message(size_bytes, world, buffers, number)
    return begin_collective(kind, size_bytes, world, buffers, number)


def _timer(kind: Timed, condition: Condition) -> Timer:
    """Give what times calls at once, in a condition."""
    has_no_future = kind == "send" or kind in WITHOUT_FUTURE
    crowded = partial(_time_crowded, follow=_noted_by_thread if has_no_future else _noted_by_future)
    return crowded if condition == "crowded" else _time_idle


def _time_size(time_once: Timer, calls: Calls, budget_s: float) -> float:
    """Give the mean but for the lowest and the highest tenth.

    Not the median: where threads take turns on cores, one call takes a fraction of a turn and the next a whole one, and
    what a step of several collectives takes is a matter of the mean.
    """
    time_once(calls)
    (first_s,) = _together([time_once(calls)])
    repetitions = min(_MOST_TIMES, max(_FEWEST_TIMES, int(budget_s / (first_s + _GAP_S))))
    times_s = sorted(_together([time_once(calls) for _ in range(repetitions)]))
    cut = repetitions // 10
    return statistics.fmean(times_s[cut : repetitions - cut])


def _time_idle(calls: Calls) -> _Call:
    time.sleep(_GAP_S)
    start_s = time.perf_counter()
    for work in [call() for call in calls]:
        work.wait()
    return _Call(start_s, time.perf_counter())


def _time_crowded(calls: Calls, follow: Callable[[dist.Work, list[float]], Callable[[], object]]) -> _Call:
    rows, width = _UNIT
    left, right = torch.ones(rows, width), torch.ones(width, width)
    busy_until_s = time.perf_counter() + _GAP_S
    while time.perf_counter() < busy_until_s:
        torch.mm(left, right)
    start_s = time.perf_counter()
    ends_s: list[float] = []
    waits = [follow(call(), ends_s) for call in calls]
    while len(ends_s) < len(calls):  # bounded by the group's timeout, which completes a future, too
        torch.mm(left, right)
    for wait in waits:
        wait()  # raises where the communication has failed
    return _Call(start_s, max(ends_s))


def _noted_by_future(work: dist.Work, ends_s: list[float]) -> Callable[[], object]:
    """Have the end of a communication noted; give what waits for it."""
    work.get_future().then(lambda _: ends_s.append(time.perf_counter()))
    return work.wait


def _noted_by_thread(work: dist.Work, ends_s: list[float]) -> Callable[[], object]:
    """Do the same where there is no future; a message must not be waited for twice."""

    def watch() -> None:
        try:
            work.wait()
        finally:
            ends_s.append(time.perf_counter())

    return _WATCHERS.submit(watch).result


def _together(calls: list[_Call]) -> list[float]:
    """Combine all ranks' views of the same calls: from the last start to the last end."""
    latest = torch.tensor(calls, dtype=torch.float64)
    dist.all_reduce(latest, dist.ReduceOp.MAX)
    times_s: list[float] = (latest[:, 1] - latest[:, 0]).clamp(min=1e-6).tolist()
    return times_s
