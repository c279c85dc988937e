"""Costs: how long a device takes for a kernel.

A kernel's roofline time is `work_flops / peak + bytes_moved / bandwidth + launch`: a sum, not a maximum, since small
kernels on real devices are seldom limited by one thing alone. A device that was measured takes `r` times as long,
where the ratio `r` was measured on a grid of shapes and is interpolated between the grid's points, linearly in the
logarithm of each axis; outside the grid the ratio of the nearest point holds and the kernel is reported as
extrapolated. A device given by data-sheet figures has r = 1.

The simulator charges these times; with emulated compute the executor spends them.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from twinstep.effects import Compute
from twinstep.errors import InputError
from twinstep.kernels import Kernel
from twinstep.profile import CollectiveTable, DeviceCurves, KernelCurve, Profile
from twinstep.topologies import DeviceSpec, ProcessorRates


class DeviceCosts(Protocol):
    """What a device's kernels cost."""

    def kernel_s(self, kernel: Kernel) -> float:
        """Give a kernel's seconds on this device."""
        ...

    def is_extrapolated(self, kernel: Kernel) -> bool:
        """Tell whether the kernel lies outside what was measured."""
        ...


class RooflineCosts:
    """A device given by its data sheet."""

    def __init__(self, peak_flops_per_s: float, bandwidth_bytes_per_s: float, launch_s: float) -> None:
        self._peak_flops_per_s = peak_flops_per_s
        self._bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self._launch_s = launch_s

    def kernel_s(self, kernel: Kernel) -> float:
        """Give the roofline time in seconds.

        >>> RooflineCosts(1e9, 1e9, 1e-6).kernel_s(Kernel("zero", (250,)))
        2e-06
        """
        work_s = kernel.work_flops / self._peak_flops_per_s + kernel.bytes_moved / self._bandwidth_bytes_per_s
        return work_s + self._launch_s

    def is_extrapolated(self, kernel: Kernel) -> bool:
        """Tell False: a roofline holds for every shape."""
        return False


class MeasuredCosts:
    """A device that was calibrated; `occupancy` is 0 where the other cores idle and 1 where all are busy."""

    def __init__(self, curves: DeviceCurves, occupancy: float) -> None:
        self._curves = curves
        self._occupancy = occupancy
        self._roofline = RooflineCosts(curves.peak_flops_per_s, curves.bandwidth_bytes_per_s, launch_s=curves.launch_s)
        self._ratios = {name: self._ratio_grid(name, curve) for name, curve in curves.kernels.items()}

    def _ratio_grid(self, name: str, curve: KernelCurve) -> tuple[float, ...]:
        shapes = itertools.product(*curve.grid)
        times = zip(shapes, curve.idle_s, curve.busy_s, strict=True)
        return tuple(
            (idle_s + self._occupancy * (busy_s - idle_s)) / self._roofline.kernel_s(Kernel(name, shape))
            for shape, idle_s, busy_s in times
        )

    def kernel_s(self, kernel: Kernel) -> float:
        """Give the seconds from the measured curve; the roofline alone where the kernel has none."""
        roofline_s = self._roofline.kernel_s(kernel)
        curve = self._curves.kernels.get(kernel.name)
        if curve is None:
            return roofline_s
        return roofline_s * _interpolate(curve.grid, self._ratios[kernel.name], kernel.shape)

    def is_extrapolated(self, kernel: Kernel) -> bool:
        """Tell whether the kernel was not measured, or only at smaller or only at larger sizes."""
        curve = self._curves.kernels.get(kernel.name)
        if curve is None:
            return True
        return any(not axis[0] <= size <= axis[-1] for axis, size in zip(curve.grid, kernel.shape, strict=True))


def _interpolate(grid: Sequence[Sequence[int]], values: Sequence[float], shape: Sequence[int]) -> float:
    """Interpolate `values` on `grid` at `shape`, linearly in each axis' logarithm; clamp outside.

    >>> _interpolate([(1, 100)], [1.0, 3.0], (10,))
    2.0
    """
    if not grid:
        return values[0]
    axis, *rest = grid
    stride = len(values) // len(axis)
    low, weight = _position(axis, shape[0])
    value = _interpolate(rest, values[low * stride : (low + 1) * stride], shape[1:])
    if weight == 0:
        return value
    above = _interpolate(rest, values[(low + 1) * stride : (low + 2) * stride], shape[1:])
    return value + weight * (above - value)


def _position(axis: Sequence[int], size: float) -> tuple[int, float]:
    """Find the grid point at or below `size` and how far `size` is on the way to the next, by logarithms."""
    if size <= axis[0]:
        return 0, 0.0
    if size >= axis[-1]:
        return len(axis) - 1, 0.0
    low = bisect_right(axis, size) - 1
    return low, math.log(size / axis[low]) / math.log(axis[low + 1] / axis[low])


def device_costs(spec: DeviceSpec | ProcessorRates, profile: Profile | None, *, busy_cores: int) -> DeviceCosts:
    """Give the costs of a device, or of a host's processors, of the topology.

    `busy_cores` is how many ranks compute on the same host at once. Raises InputError where the device is of a kind
    that must be measured and no profile has it.
    """
    if isinstance(spec, ProcessorRates):
        return RooflineCosts(spec.peak, spec.memory_bandwidth, spec.overhead or 0.0)
    if profile is None or spec not in profile.devices:
        raise InputError(
            f"the topology's devices are of kind {spec!r}, which the profile does not have",
            remedy="run `twinstep calibrate` on a machine that has one, or give the device's peak and memory_bandwidth",
        )
    cores = profile.machine.cores
    occupancy = (min(busy_cores, cores) - 1) / (cores - 1) if cores > 1 else 1.0
    return MeasuredCosts(profile.devices[spec], occupancy)


def compute_s(effect: Compute, costs: DeviceCosts) -> float:
    """Give the seconds of all kernels of an effect, one after another."""
    return sum(costs.kernel_s(kernel) for kernel in effect.kernels)


class CollectiveTime(NamedTuple):
    """What a collective takes among ranks of one host."""

    elapsed_s: float
    """When nothing else runs."""
    pairing: float
    """How many times as long two at once take: 1 where they do not disturb each other, 2 where they take turns."""
    crowding: float
    """How many times as long one takes while every rank computes; at least 1."""


def collective_time(table: CollectiveTable, ranks: int, size_bytes: int) -> CollectiveTime:
    """Interpolate what was measured: linear in the size, by powers in the number of ranks.

    Outside the table sizes scale with the last measured bandwidth, and ranks with the power of the last two rows.
    """

    def at(sizes: Sequence[int], rows: Sequence[Sequence[float]]) -> float:
        return _between_ranks(table.ranks, [_at_size(sizes, row, size_bytes) for row in rows], ranks)

    elapsed_s = at(table.sizes_bytes, table.elapsed_s)
    pairing = at(table.shared_sizes_bytes, table.paired_s) / elapsed_s
    crowding = at(table.shared_sizes_bytes, table.crowded_s) / elapsed_s
    return CollectiveTime(elapsed_s, min(max(pairing, 1.0), 2.0), max(crowding, 1.0))


def _at_size(sizes: Sequence[int], times_s: Sequence[float], size_bytes: int) -> float:
    if size_bytes <= sizes[0] or len(sizes) == 1:
        return times_s[0]
    low = min(bisect_right(sizes, size_bytes), len(sizes) - 1) - 1
    slope = (times_s[low + 1] - times_s[low]) / (sizes[low + 1] - sizes[low])
    return times_s[low] + max(slope, 0.0) * (size_bytes - sizes[low])


def _between_ranks(rows: Sequence[int], times_s: Sequence[float], ranks: int) -> float:
    if len(rows) == 1 or ranks in rows:
        return times_s[rows.index(ranks) if ranks in rows else 0]
    low = min(max(bisect_right(rows, ranks) - 1, 0), len(rows) - 2)
    power = math.log(times_s[low + 1] / times_s[low]) / math.log(rows[low + 1] / rows[low])
    return float(times_s[low] * (ranks / rows[low]) ** power)
