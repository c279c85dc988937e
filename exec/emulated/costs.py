"""Costs: what the emulation of a cluster costs this machine.

Between two hosts, on links of 100 Gb/s, only the machine limits. With one rank a host cores are to spare, and a small
all-reduce shows the time of a step; with eight ranks a core they are not, and it shows what a step takes of the cores,
a large one what bytes take. Pieces of two sizes tell the cost of a piece from that of its bytes.

It takes four hosts, on slower links, to see what two collectives of a group lose that go around its ring in opposite
directions. A receiver says that it is ready behind what it sends itself, so each of the two waits for the other's
messages.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from twinstep.exec.board import Seat
from twinstep.exec.emulated.star import Star
from twinstep.exec.gloo_timing import time_collectives, time_opposed
from twinstep.exec.supervisor import use_loopback

_BANDWIDTH = "100 Gb/s"
_RANKS_A_CORE = 8
_SMALL_BYTES, _LARGE_BYTES = 2**12, 2**22
_COPIED_BYTES = 2**26
"""More than what an allocator keeps for the next time."""
_PIECES_BYTES = (2**16, 2 * 1500)
"""The largest and the smallest that an emulated link is given: two frames."""
_HOPS = 2
_CREWS = 3
"""Two ranks are quicker or slower for the life of their processes, by where their threads run."""
_LEAST_STEP_S = 1e-6
_RING_HOSTS, _RING_BANDWIDTH, _RING_BYTES = 4, "100 Mb/s", 2**20


def emulation_costs(folder: Path) -> dict[str, object]:
    """Give the fields of `EmulationCosts`; scratch files are left in `folder`. Raises RunError where it fails."""
    use_loopback()
    crews = itertools.count()
    costs = _machine_costs(Star(folder, 2, _BANDWIDTH, crews))
    star = Star(folder, _RING_HOSTS, _RING_BANDWIDTH, crews)
    opposed_rate = star.time(_RING_HOSTS, partial(time_opposed, _RING_HOSTS, _RING_BYTES))
    return costs | {"opposed_rate": min(1.0, opposed_rate)}


def _machine_costs(star: Star) -> dict[str, object]:
    """Give what the fields of `EmulationCosts` say of the machine."""
    cores = len(os.sched_getaffinity(0))
    many = _RANKS_A_CORE * cores
    step_cpu_s = _all_reduce_s(star, many, _SMALL_BYTES) * cores / _steps(many)
    small_s = statistics.median(_all_reduce_s(star, 2, _SMALL_BYTES) for _ in range(_CREWS))
    step_s = small_s / 2 - 2 * step_cpu_s / cores
    per_byte = []
    for piece_bytes in _PIECES_BYTES:
        star.use_pieces(piece_bytes)
        busy_s = _all_reduce_s(star, many, _LARGE_BYTES) * cores - _steps(many) * step_cpu_s
        per_byte.append(busy_s / (_steps(many) * _LARGE_BYTES / many))
    large, small = _PIECES_BYTES
    piece_cpu_s = max(0.0, (per_byte[1] - per_byte[0]) / (1 / small - 1 / large) / _HOPS)
    return {
        "step_s": max(_LEAST_STEP_S, step_s),
        "step_cpu_s": step_cpu_s,
        "piece_cpu_s": piece_cpu_s,
        "byte_cpu_s": max(0.0, per_byte[0] - _HOPS * piece_cpu_s / large),
        "copy_s_per_byte": _copy_s_per_byte(),
        "delays_links": star.cluster.abilities.delays,
        "congestion": star.cluster.abilities.congestion,
    }


def _all_reduce_s(star: Star, ranks: int, size_bytes: int) -> float:
    (time_s,) = star.time(ranks, partial(_all_reduces, ranks, size_bytes))
    return time_s


def _all_reduces(ranks: int, size_bytes: int, rank: int, folder: Path, seat: Seat) -> list[float]:
    return time_collectives("all_reduce", ranks, rank, (size_bytes,), "idle", folder, seat, shares_cores=True)


def _steps(ranks: int) -> int:
    """Count the messages of all ranks in a ring all-reduce."""
    return ranks * 2 * (ranks - 1)


def _copy_s_per_byte() -> float:
    """Time a copy into fresh memory."""
    source = torch.zeros(_COPIED_BYTES // 4)
    times_s = []
    for _ in range(9):
        begin_s = time.perf_counter()
        copy: Any = source.clone()
        times_s.append(time.perf_counter() - begin_s)
        del copy
    return sorted(times_s)[len(times_s) // 2] / _COPIED_BYTES
