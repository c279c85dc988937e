"""Costs from curves and tables, held against what they were made of."""

from __future__ import annotations

import itertools

import pytest

from twinstep.costs import MeasuredCosts, RooflineCosts, collective_time
from twinstep.kernels import KERNEL_NAMES, Kernel
from twinstep.profile import CollectiveTable, DeviceCurves, KernelCurve

GRID = ((16, 64, 256), (32, 512))
ROOFLINE = RooflineCosts(1e10, 1e9, 1e-6)


def curves(idle_ratio: float, busy_ratio: float) -> DeviceCurves:
    """Make curves of a device that always takes so many times the roofline."""
    roofline_s = [ROOFLINE.kernel_s(Kernel("layer_norm_forward", shape)) for shape in itertools.product(*GRID)]
    curve = KernelCurve(
        grid=GRID,
        idle_s=tuple(idle_ratio * s for s in roofline_s),
        busy_s=tuple(busy_ratio * s for s in roofline_s),
    )
    return DeviceCurves(
        peak_flops_per_s=1e10, bandwidth_bytes_per_s=1e9, launch_s=1e-6, kernels={"layer_norm_forward": curve}
    )


@pytest.mark.parametrize("shape", [(16, 32), (64, 512), (100, 77), (7, 4000)])
def test_a_constant_ratio_holds_on_and_off_the_grid(shape: tuple[int, int]) -> None:
    kernel = Kernel("layer_norm_forward", shape)
    costs = MeasuredCosts(curves(2.0, 3.0), occupancy=0.0)
    assert costs.kernel_s(kernel) == pytest.approx(2 * ROOFLINE.kernel_s(kernel), rel=1e-12)


def test_occupancy_lies_between_idle_and_busy() -> None:
    kernel = Kernel("layer_norm_forward", (64, 100))
    costs = MeasuredCosts(curves(2.0, 3.0), occupancy=0.25)
    assert costs.kernel_s(kernel) == pytest.approx(2.25 * ROOFLINE.kernel_s(kernel), rel=1e-12)


def test_outside_the_grid_is_said() -> None:
    costs = MeasuredCosts(curves(1.0, 1.0), occupancy=0.0)
    assert not costs.is_extrapolated(Kernel("layer_norm_forward", (256, 32)))
    assert costs.is_extrapolated(Kernel("layer_norm_forward", (257, 32)))
    assert costs.is_extrapolated(Kernel("zero", (1,)))


def table(latency_s: float, bandwidth_bytes_per_s: float) -> CollectiveTable:
    """Make a table of a collective that costs n * (latency + size / bandwidth)."""
    ranks, sizes = (2, 4, 8), (1000, 10_000, 1_000_000)
    rows = tuple(tuple(n * (latency_s + size / bandwidth_bytes_per_s) for size in sizes) for n in ranks)
    return CollectiveTable(
        ranks=ranks,
        sizes_bytes=sizes,
        elapsed_s=rows,
        shared_sizes_bytes=sizes,
        paired_s=tuple(tuple(1.5 * time_s for time_s in row) for row in rows),
        crowded_s=tuple(tuple(5 * time_s for time_s in row) for row in rows),
    )


@pytest.mark.parametrize("size_bytes", [1000, 3333, 10_000, 500_000, 1_000_000, 64_000_000])
@pytest.mark.parametrize("ranks", [2, 3, 8, 16])
def test_a_linear_collective_is_met_between_and_beyond_the_points(ranks: int, size_bytes: int) -> None:
    elapsed_s, pairing, crowding = collective_time(table(1e-4, 1e9), ranks, size_bytes)
    assert elapsed_s == pytest.approx(ranks * (1e-4 + size_bytes / 1e9), rel=1e-9)
    assert (pairing, crowding) == pytest.approx((1.5, 5.0), rel=1e-9)


def test_a_collective_smaller_than_the_table_costs_the_smallest() -> None:
    assert collective_time(table(1e-4, 1e9), 2, 4)[0] == pytest.approx(2 * (1e-4 + 1e-6))


@pytest.mark.parametrize("name", KERNEL_NAMES)
def test_work_grows_with_every_axis(name: str) -> None:
    axes = Kernel(name, ()).axes
    shape = (8,) * len(axes)
    for axis in range(len(axes)):
        larger = tuple(16 if i == axis else 8 for i in range(len(axes)))
        assert Kernel(name, larger).bytes_moved >= Kernel(name, shape).bytes_moved
        assert Kernel(name, larger).work_flops >= Kernel(name, shape).work_flops
