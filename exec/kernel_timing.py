"""Timing kernels: medians over repetitions, on data that is not already in the core's own cache.

In a training step a layer's weights have last been touched a whole step ago. So each point is measured on several
copies in turn, two at the least, together larger than a second-level cache. The machine's fixed cost of a backward
call is measured on its own and taken off every backward kernel, since a layer makes one call for all of its kernels.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch

from twinstep.exec.codec_benches import Timed
from twinstep.exec.kernel_benches import BENCHES, Bench
from twinstep.kernels import Kernel

Point = tuple[str, tuple[int, ...]]
"""A kernel's name and shape."""

_COPIES_BYTES = 8 * 2**20
_MOST_COPIES = 64
_FEWEST_TIMES = 3
_MOST_TIMES = 12
_POINT_BUDGET_S = 0.005
_BANDWIDTH_ELEMENTS = 2**24
_MALLOC_BYTES = 30 * 2**20
"""A little below the largest block that glibc's malloc learns to reuse; a process that trains has freed such ones."""


def measured_points() -> list[tuple[Bench, tuple[int, ...]]]:
    """List what is timed, in order."""
    return [(bench, shape) for bench in BENCHES for shape in _measured_shapes(bench)]


def time_kernels(before_point: Callable[[int], None]) -> dict[Point, float]:
    """Time every kernel on its grid, in seconds.

    `before_point` is called before each of the `measured_points` with its index; it may wait for other processes.
    """
    torch.empty(_MALLOC_BYTES // 4)  # freed at once: from here on malloc keeps what tensors give back
    times: dict[Point, float] = {}
    for index, (bench, shape) in enumerate(measured_points()):
        before_point(index)
        for name, median_s in _time_point(bench, shape).items():
            times[name, shape] = median_s
    call_s = times["backward_call", ()]
    return {
        (name, shape): max(s - call_s, 0.1 * s) if name.endswith("_backward") else s
        for (name, shape), s in times.items()
    }


def _measured_shapes(bench: Bench) -> Iterator[tuple[int, ...]]:
    names = bench.names()
    for shape in itertools.product(*bench.grid):
        if max(Kernel(name, shape).work_flops for name in names) <= bench.flops_limit:
            yield shape


def _time_point(bench: Bench, shape: tuple[int, ...]) -> dict[str, float]:
    first = bench.make(*shape)
    moved = max(Kernel(name, shape).bytes_moved for name in first if name)
    copies = [first, *(bench.make(*shape) for _ in range(_further_copies(moved)))]
    elapsed_s = sum(_run_once(timed, {}) for timed in copies) / len(copies)
    repetitions = min(_MOST_TIMES, max(_FEWEST_TIMES, round(_POINT_BUDGET_S / max(elapsed_s, 1e-6))))
    samples: dict[str, list[float]] = defaultdict(list)
    for timed in itertools.islice(itertools.cycle(copies), repetitions):
        _run_once(timed, samples)
    return {name: statistics.median(values) for name, values in samples.items() if name}


def _further_copies(moved_bytes: float) -> int:
    return min(_MOST_COPIES, max(1, int(_COPIES_BYTES / moved_bytes))) if moved_bytes else 0


def _run_once(timed: Timed, samples: dict[str, list[float]]) -> float:
    """Run what is timed once, in order; give the seconds of all together."""
    total_s = 0.0
    for name, function in timed.items():
        start_s = time.perf_counter()
        function()
        elapsed_s = time.perf_counter() - start_s
        samples.setdefault(name, []).append(elapsed_s)
        total_s += elapsed_s
    return total_s


def time_bandwidth() -> float:
    """Measure the bytes a second that one core reads and writes while it copies 64 MiB."""
    source, target = torch.zeros(_BANDWIDTH_ELEMENTS), torch.zeros(_BANDWIDTH_ELEMENTS)
    times = []
    for _ in range(7):
        start_s = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start_s)
    return 2 * 4 * _BANDWIDTH_ELEMENTS / statistics.median(times)


def nearest_measured(point: Point, measured: Sequence[Point]) -> Point:
    """Find the measured point of the same kernel that is largest among those that are no larger in any axis."""
    name, shape = point
    below = [p for p in measured if p[0] == name and all(a <= b for a, b in zip(p[1], shape, strict=True))]
    return max(below, key=lambda p: Kernel(*p).work_flops)
