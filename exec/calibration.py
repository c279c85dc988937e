"""Calibration: measure this machine, in a process of its own, and leave a profile.

In turn: every kernel on one core while the others idle, and on all cores at once, three times, since others use the
same hardware for seconds; what the engine itself costs an effect; gloo's collectives on loopback for several numbers of
ranks, more than there are cores among them, and its messages. No training step is ever timed.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from twinstep.exec.board import Board
from twinstep.exec.crew import run_crew, say
from twinstep.exec.gloo_timing import Condition, Timed, time_collectives
from twinstep.exec.kernel_benches import BENCHES
from twinstep.exec.kernel_timing import Point, measured_points, nearest_measured, time_bandwidth, time_kernels
from twinstep.exec.load import OtherLoad
from twinstep.exec.overheads import time_overheads
from twinstep.exec.reference import Reference
from twinstep.exec.supervisor import use_loopback
from twinstep.kernels import KERNEL_NAMES, Kernel
from twinstep.profile import (
    FORMAT,
    CollectiveTable,
    DeviceCurves,
    HostOverheads,
    KernelCurve,
    Profile,
    this_machine,
    to_json,
)

Times = Mapping[Point, float]
"""What one process has timed: seconds by point, and the bandwidth in bytes a second."""
TIMEOUT_S = 60.0
TABLES: tuple[tuple[Timed, tuple[int, ...], float], ...] = (
    ("all_reduce", (2, 4, 8, 10), 0.14),
    ("all_gather", (2, 4), 0.05),
    ("reduce_scatter", (2, 4), 0.05),
    ("send", (2,), 0.03),
)
"""What is timed on loopback, among how many ranks, and its share of the calibration."""
SIZES_BYTES = (2**10, 2**18, 2**20, 2**22, 2**24)
SHARED_SIZES_BYTES = (2**10, 2**20, 2**23)
_PASSES = 3
"""How often kernels are timed; the median counts."""
_KERNELS_SHARE = 0.7
_OVERHEADS_SHARE = 0.03
_BANDWIDTH: Point = ("bandwidth", ())
_REFERENCE: Point = ("reference", ())


class Calibration:
    """The parts of a calibration, each in forked processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = 0.0

    def run(self) -> Profile:
        """Measure everything. Raises RuntimeError where a part fails."""
        machine = this_machine()
        other_load = OtherLoad()
        alone, together = list[Times](), list[Times]()
        for _ in range(_PASSES):
            alone += self._kernels(processes=1)
            together += self._kernels(machine.cores) if machine.cores > 1 else []
        idle = medians(alone)
        busy = medians(together) if together else idle
        overheads = self._overheads()
        tables: dict[str, CollectiveTable] = {
            kind: self._table(kind, numbers, share) for kind, numbers, share in TABLES
        }
        return Profile(
            format=FORMAT,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine,
            versions={"torch": torch.__version__, "python": platform.python_version(), "twinstep": version("twinstep")},
            devices={"cpu": _curves(idle, busy)},
            collectives={"gloo": tables},
            overheads=overheads,
            reference_s=busy[_REFERENCE],
            other_load_cores=round(other_load.cores(), 3),
        )

    def _crew(self, ranks: int, work: Callable[[int, Board], object], share: float, parts: int) -> list[object]:
        """Run `work` in forked processes; give what each of them returned.

        `share` is its share of the calibration; it notes on the board which of its `parts` it is at.
        """
        board_path = self._folder / "board"
        board_path.unlink(missing_ok=True)
        board = Board(board_path, ranks)

        def work_and_save(rank: int) -> None:
            result = work(rank, board)
            (self._folder / f"result-{rank}").write_text(json.dumps(result))

        def report() -> None:
            part = max(0, min(board.read(rank).step for rank in range(ranks))) / parts
            say(event="progress", step=round(100 * (self._done + share * part)))

        failure = run_crew(board, self._folder, TIMEOUT_S, work_and_save, report)
        if failure:
            raise RuntimeError(failure)
        self._done += share
        return [json.loads((self._folder / f"result-{rank}").read_text()) for rank in range(ranks)]

    def _kernels(self, processes: int) -> list[Times]:
        """Time the kernels and the reference in so many processes at once; give each process's times."""

        def work(rank: int, board: Board) -> object:
            torch.set_num_threads(1)
            reference, references_s = Reference(), list[float]()

            def begin(index: int) -> None:
                _keep_pace(board, rank, index)
                references_s.append(reference.seconds())

            times = time_kernels(begin)
            return [*times.items(), (_BANDWIDTH, time_bandwidth()), (_REFERENCE, statistics.fmean(references_s))]

        results = self._crew(processes, work, _KERNELS_SHARE / 2 / _PASSES, parts=len(measured_points()))
        return [{(name, tuple(shape)): value for (name, shape), value in result} for result in results]  # type: ignore[attr-defined]

    def _overheads(self) -> HostOverheads:
        (result, *_) = self._crew(
            2, lambda rank, board: time_overheads(rank, self._folder, board.seat(rank)), _OVERHEADS_SHARE, parts=1
        )
        return HostOverheads.model_validate(result)

    def _table(self, kind: Timed, numbers: tuple[int, ...], share: float) -> CollectiveTable:
        def rows(sizes_bytes: tuple[int, ...], condition: Condition) -> tuple[tuple[float, ...], ...]:
            part = share / 3 / len(numbers)
            return tuple(self._communication(kind, ranks, sizes_bytes, condition, part) for ranks in numbers)

        return CollectiveTable(
            ranks=numbers,
            sizes_bytes=SIZES_BYTES,
            elapsed_s=rows(SIZES_BYTES, "idle"),
            shared_sizes_bytes=SHARED_SIZES_BYTES,
            paired_s=rows(SHARED_SIZES_BYTES, "paired"),
            crowded_s=rows(SHARED_SIZES_BYTES, "crowded"),
        )

    def _communication(
        self, kind: Timed, ranks: int, sizes_bytes: tuple[int, ...], condition: Condition, share: float
    ) -> tuple[float, ...]:
        def work(rank: int, board: Board) -> object:
            return time_collectives(kind, ranks, rank, sizes_bytes, condition, self._folder, board.seat(rank))

        times: list[float] = self._crew(ranks, work, share, parts=len(sizes_bytes))[0]  # type: ignore[assignment]
        return tuple(times)


def _keep_pace(board: Board, rank: int, index: int) -> None:
    """Note that a process is ready for its next kernel, and wait until all are, so that they time it together."""
    board.seat(rank).note(index, "kernels", blocked=True)
    give_up_s = time.monotonic() + TIMEOUT_S
    while min(board.read(other).step for other in range(board.ranks)) < index:
        if time.monotonic() > give_up_s:
            raise RuntimeError("another process of the calibration hangs")
        time.sleep(1e-4)


def medians(processes: Sequence[Times]) -> Times:
    """Give each point's median over processes."""
    return {point: statistics.median(each[point] for each in processes) for point in processes[0]}


def _curves(idle: Times, busy: Times) -> DeviceCurves:
    """Turn times by point into curves, with the roofline that the same times show."""
    kernels = {name: {p: s for p, s in idle.items() if p[0] == name} for name in KERNEL_NAMES}
    products = kernels["linear_forward"]
    peak = max(Kernel(*point).work_flops / seconds for point, seconds in products.items())
    launch_s = min(kernels["relu_forward"].values())
    bandwidth = idle[_BANDWIDTH]
    grids = {name: bench.grid for bench in BENCHES for name in bench.names()}

    def roofline_s(point: Point) -> float:
        kernel = Kernel(*point)
        return kernel.work_flops / peak + kernel.bytes_moved / bandwidth + launch_s

    def complete(times: Mapping[Point, float], name: str) -> tuple[float, ...]:
        filled = []
        for shape in itertools.product(*grids[name]):
            point = name, shape
            known = point if point in times else nearest_measured(point, list(times))
            filled.append(times[known] * roofline_s(point) / roofline_s(known))
        return tuple(filled)

    return DeviceCurves(
        peak_flops_per_s=peak,
        bandwidth_bytes_per_s=bandwidth,
        launch_s=launch_s,
        kernels={
            name: KernelCurve(grid=grid, idle_s=complete(idle, name), busy_s=complete(busy, name))
            for name, grid in grids.items()
        },
    )


def main(folder: Path) -> int:
    """Calibrate, and write profile.json into `folder`; give 0, or 3 where something failed."""
    use_loopback()
    try:
        profile = Calibration(folder).run()
    except RuntimeError as error:
        say(event="failed", message=str(error))
        return 3
    (folder / "profile.json").write_text(to_json(profile))
    say(event="done")
    return 0
