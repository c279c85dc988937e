"""Others: traffic that is not the plan's, by processes of its own in the hosts that it names.

Each piece of traffic is a group of its own, which does one thing again and again from the ranks' first step on.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from twinstep.disturbances import BackgroundFlow
from twinstep.effects import Collective, Transfer
from twinstep.exec.board import Board
from twinstep.exec.calls import Calls, Joined
from twinstep.exec.emulated.builder import Cluster
from twinstep.exec.gloo_threads import keep_watchers_from_preempting
from twinstep.plan import Plan
from twinstep.topologies import Topology

_PATIENCE_S = 3600.0
_NAP_S = 0.5
_LOOK_S = 0.002


class _Member(NamedTuple):
    number: int
    """Of the traffic, in the plan's list."""
    position: int
    node: str


class Others:
    """All traffic of others in a plan."""

    def __init__(self, plan: Plan, topology: Topology, cluster: Cluster, folder: Path) -> None:
        self._background = plan.run.background
        self._members = tuple(
            _Member(number, position, node)
            for number, other in enumerate(self._background)
            for position, node in enumerate(other.ends)
        )
        self._topology = topology
        self._cluster = cluster
        self._folder = folder
        self.names = tuple(f"others' traffic {m.number} on {m.node}" for m in self._members)
        """What messages call each of the processes."""

    def run(self, index: int, board: Board) -> None:
        """Be one of the processes, until the ranks have ended and this one is ended, too."""
        member = self._members[index]
        self._cluster.namespaces[self._topology.place_of(member.node)].enter()
        torch.set_num_threads(1)
        other = self._background[member.number]
        size = len(other.ends)
        store = dist.FileStore(str(self._folder / f"store-others-{member.number}"), size)
        patience = timedelta(seconds=_PATIENCE_S)
        dist.init_process_group("gloo", store=store, rank=member.position, world_size=size, timeout=patience)
        keep_watchers_from_preempting()
        world = Joined(dist.group.WORLD, tuple(range(size)), member.position)  # type: ignore[arg-type]
        calls = Calls({"others": world})
        effect: Collective | Transfer
        if isinstance(other, BackgroundFlow):
            effect = Transfer("recv" if member.position else "send", "others", 0, 1, other.size, "others")
        else:
            effect = Collective(other.collective, "others", other.size, "others")
        seat = board.seat(board.ranks + index)
        dist.barrier()
        while min(board.read(rank).step for rank in range(board.ranks)) < 0:
            seat.note(-1, "waiting for the ranks", blocked=True)
            time.sleep(_LOOK_S)
        next_s = time.monotonic() + (other.begin or 0.0)
        while True:
            while (left_s := next_s - time.monotonic()) > 0:
                seat.note(0, "pause", blocked=True)
                time.sleep(min(left_s, _NAP_S))
            seat.note(0, effect.operation, blocked=True)
            next_s = time.monotonic() + (other.every or 0.0)
            calls.begin(effect).wait()
