"""Pair: what the emulation of a cluster costs this machine, measured between two hosts.

Two hosts, a switch between them, links of 100 Gb/s, so that only the machine limits. The ranks are dealt to the hosts
in turn, so every message of a ring crosses the switch. With one rank a host cores are to spare, and a small all-reduce
shows the time of a step; with eight ranks a core they are not, and it shows what a step takes of the cores, a large one
what bytes take. Pieces of two sizes tell the cost of a piece from that of its bytes.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from twinstep.errors import InputError, RunError
from twinstep.exec.crew import die_with_parent, say
from twinstep.exec.emulated.namespaces import become_able

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
_TIMEOUT_S = 60.0


def main(folder: Path) -> int:
    """Measure, and write emulation.json into `folder`; give 0, or 3 where something failed."""
    try:
        become_able(partial(die_with_parent, os.getppid(), signal.SIGTERM))
        costs = _Pair(folder).costs()
    except (InputError, RunError) as error:
        say(event="failed", message=str(error))
        return 3
    (folder / "emulation.json").write_text(json.dumps(costs))
    say(event="done")
    return 0


class _Pair:
    """Two hosts, and the crews that measure on them."""

    def __init__(self, folder: Path) -> None:
        from twinstep.exec.emulated.blueprint import blueprint
        from twinstep.exec.emulated.builder import build
        from twinstep.exec.supervisor import use_loopback
        from twinstep.plan import Plan
        from twinstep.topologies import build as build_topology

        use_loopback()
        link = {"bandwidth": "100 Gb/s", "latency": "1 us"}
        star = {"builder": "star", "hosts": 2, "device": "cpu", "link": link}
        bench = {"kind": "collective", "collective": "all_reduce", "size": "4 KiB"}
        plan = Plan.model_validate({"workload": bench, "topology": star})
        self._folder = folder
        self._cluster = build(blueprint(plan, build_topology(plan.topology)))  # type: ignore[arg-type]
        self._hosts = [self._cluster.namespaces[host] for host in ("host0", "host1")]
        self._runs = 0

    def costs(self) -> dict[str, object]:
        """Give the fields of `EmulationCosts`."""
        cores = len(os.sched_getaffinity(0))
        many = _RANKS_A_CORE * cores
        step_cpu_s = self._all_reduce_s(many, _SMALL_BYTES) * cores / _steps(many)
        small_s = statistics.median(self._all_reduce_s(2, _SMALL_BYTES) for _ in range(_CREWS))
        step_s = small_s / 2 - 2 * step_cpu_s / cores
        per_byte = []
        for piece_bytes in _PIECES_BYTES:
            self._use_pieces(piece_bytes)
            busy_s = self._all_reduce_s(many, _LARGE_BYTES) * cores - _steps(many) * step_cpu_s
            per_byte.append(busy_s / (_steps(many) * _LARGE_BYTES / many))
        large, small = _PIECES_BYTES
        piece_cpu_s = max(0.0, (per_byte[1] - per_byte[0]) / (1 / small - 1 / large) / _HOPS)
        return {
            "step_s": max(_LEAST_STEP_S, step_s),
            "step_cpu_s": step_cpu_s,
            "piece_cpu_s": piece_cpu_s,
            "byte_cpu_s": max(0.0, per_byte[0] - _HOPS * piece_cpu_s / large),
            "copy_s_per_byte": _copy_s_per_byte(),
            "delays_links": self._cluster.abilities.delays,
            "congestion": self._cluster.abilities.congestion,
        }

    def _use_pieces(self, size_bytes: int) -> None:
        for node, namespace in self._cluster.namespaces.items():
            ends = [end for cable in self._cluster.blueprint.cables for end in cable.ends if end.node == node]
            namespace.run("ip", [f"link set {end.port} gso_max_size {size_bytes}" for end in ends])

    def _all_reduce_s(self, ranks: int, size_bytes: int) -> float:
        from twinstep.exec.board import Board
        from twinstep.exec.crew import run_crew
        from twinstep.exec.gloo_timing import time_collectives

        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        board = Board(folder / "board", ranks)

        def work(rank: int) -> None:
            self._hosts[rank % 2].enter()
            times = time_collectives(
                "all_reduce", ranks, rank, (size_bytes,), "idle", folder, board.seat(rank), shares_cores=True
            )
            (folder / f"times-{rank}").write_text(json.dumps(times))

        failure = run_crew(board, folder, _TIMEOUT_S, work, lambda: say(event="progress", step=self._runs - 1))
        if failure:
            raise RunError(failure)
        (time_s,) = json.loads((folder / "times-0").read_text())
        return float(time_s)


def _steps(ranks: int) -> int:
    """Count the messages of all ranks in a ring all-reduce."""
    return ranks * 2 * (ranks - 1)


def _copy_s_per_byte() -> float:
    """Time a copy into fresh memory."""
    import torch

    source = torch.zeros(_COPIED_BYTES // 4)
    times_s = []
    for _ in range(9):
        begin_s = time.perf_counter()
        copy: Any = source.clone()
        times_s.append(time.perf_counter() - begin_s)
        del copy
    return sorted(times_s)[len(times_s) // 2] / _COPIED_BYTES
