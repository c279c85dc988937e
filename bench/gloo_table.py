"""Measure all of gloo's collectives on loopback and print them as a table.

Each cell is the mean time of a collective without the lowest and highest tenth. The size is a rank's whole buffer, or
the sum of all ranks' parts where each rank holds a part. It takes some minutes.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from twinstep.exec.board import Board
from twinstep.exec.crew import run_crew
from twinstep.exec.gloo_timing import KINDS, time_collectives
from twinstep.exec.supervisor import use_loopback
from twinstep.profile import this_machine
from twinstep.units import format_size

RANKS = (2, 3, 4, 6, 8, 10)
SIZES_BYTES = (2**10, 2**14, 2**18, 2**20, 2**22, 2**24, 2**26)
TIMEOUT_S = 120.0


def measure(kind: str, ranks: int) -> list[float]:
    """Time one kind of collective among so many ranks; give seconds by size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        board = Board(folder / "board", ranks)

        def work(rank: int) -> None:
            times = time_collectives(kind, ranks, rank, SIZES_BYTES, "idle", folder, board.seat(rank))
            if rank == 0:
                (folder / "times").write_text(json.dumps(times))

        failure = run_crew(board, folder, TIMEOUT_S, work, lambda: None)
        if failure:
            sys.exit(failure)
        times: list[float] = json.loads((folder / "times").read_text())
        return times


def main() -> None:
    """Print a Markdown table: a row for each collective and number of ranks, a column for each size, in ms."""
    use_loopback()
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}, torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, load {os.getloadavg()[0]:.1f}\n")
    print(f"| collective | ranks | {' | '.join(format_size(size) for size in SIZES_BYTES)} |")
    print("|---|---|" + "---|" * len(SIZES_BYTES))
    for kind in KINDS:
        for ranks in RANKS:
            cells = " | ".join(f"{1e3 * s:.3g}" for s in measure(kind, ranks))
            print(f"| {kind} | {ranks} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
