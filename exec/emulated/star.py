"""Star: hosts around a switch, on which is measured what the emulation of a cluster costs.

Ranks are dealt to the hosts in turn, so every message between neighbours of a ring crosses the switch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from twinstep.errors import RunError
from twinstep.exec.board import Board, Seat
from twinstep.exec.crew import run_crew, say
from twinstep.exec.emulated.blueprint import blueprint
from twinstep.exec.emulated.builder import build
from twinstep.plan import Plan
from twinstep.topologies import build as build_topology

T = TypeVar("T", float, list[float])

_TIMEOUT_S = 60.0


class Star:
    """The hosts, and the crews that measure on them."""

    def __init__(self, folder: Path, hosts: int, bandwidth: str, crews: Iterator[int]) -> None:
        """Build it, with scratch files in `folder`; `crews` numbers all crews. Raises RunError where it cannot."""
        link = {"bandwidth": bandwidth, "latency": "1 us"}
        star = {"builder": "star", "hosts": hosts, "device": "cpu", "link": link}
        bench = {"kind": "collective", "collective": "all_reduce", "size": "4 KiB"}
        plan = Plan.model_validate({"workload": bench, "topology": star})
        self._folder = folder
        self.cluster = build(blueprint(plan, build_topology(plan.topology)))  # type: ignore[arg-type]
        self._hosts = [self.cluster.namespaces[f"host{index}"] for index in range(hosts)]
        self._crews = crews

    def use_pieces(self, size_bytes: int) -> None:
        """Let the kernel hand on so many bytes at once."""
        for node, namespace in self.cluster.namespaces.items():
            ends = [end for cable in self.cluster.blueprint.cables for end in cable.ends if end.node == node]
            namespace.run("ip", [f"link set {end.port} gso_max_size {size_bytes}" for end in ends])

    def time(self, ranks: int, timed: Callable[[int, Path, Seat], T]) -> T:
        """Let a crew of `ranks` measure; give what its first rank has found. Raises RunError where it fails.

        `timed` is given the rank, a folder of the crew's own, and the rank's seat.
        """
        number = next(self._crews)
        folder = self._folder / f"crew-{number}"
        folder.mkdir()
        board = Board(folder / "board", ranks)

        def work(rank: int) -> None:
            self._hosts[rank % len(self._hosts)].enter()
            found = timed(rank, folder, board.seat(rank))
            (folder / f"found-{rank}").write_text(json.dumps(found))

        failure = run_crew(board, folder, _TIMEOUT_S, work, lambda: say(event="progress", step=number))
        if failure:
            raise RunError(failure)
        found: T = json.loads((folder / "found-0").read_text())
        return found
