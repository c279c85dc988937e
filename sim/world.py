"""World: a setup and its cast, running."""

from __future__ import annotations

import numpy as np
import simpy

from twinstep.communication import LinkUse
from twinstep.errors import RunError
from twinstep.profile import HostOverheads
from twinstep.sim.cast import Cast
from twinstep.sim.communication import Meeting
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.ranks import HostRank, QueuedRank
from twinstep.sim.setup import Setup
from twinstep.sim.switchboard import Switchboard
from twinstep.timeline import Span, Twins


class World:
    """Everything of one simulation."""

    def __init__(self, setup: Setup, cast: Cast) -> None:
        self.env = simpy.Environment()
        self.fluid = Fluid(self.env, setup.resources.capacities.tolist())
        self.spans: list[Span] = []
        self._setup = setup
        self._cast = cast
        self._switchboard = Switchboard(
            self.env, self.fluid, cast, setup.circles, setup.programs.groups, setup.slots, self._record
        )
        self._switchboard.use(setup.tables)
        played = np.flatnonzero(cast.ranks == np.arange(len(cast.ranks))).tolist()
        self.ranks = {rank: self._rank(rank) for rank in played}
        self._processes = {
            index: self.env.process(rank.run(setup.programs.program(index))) for index, rank in self.ranks.items()
        }

    def run(self) -> None:
        """Let time pass until all ranks have ended. Raises RunError naming one that never does."""
        self.env.run()
        for index, process in self._processes.items():
            if process.is_alive:
                communicators = self._switchboard.communicators.values()
                joined = [unfinished for c in communicators if (unfinished := c.unfinished())]
                raise RunError(
                    f"rank {index} never ends: it hangs on {self.ranks[index].last}; joined so far: {joined}"
                )

    def folds(self) -> tuple[Twins, ...]:
        """Say who stood for whom; empty where everybody was simulated."""
        if len(self.ranks) == len(self._cast.ranks):
            return ()
        order = np.argsort(self._cast.ranks, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self._cast.ranks[order])) + 1)
        return tuple(Twins(int(part[0]), tuple(part.tolist())) for part in parts)

    def links(self) -> tuple[LinkUse, ...]:
        """Give what every link carried, of those that carried anything."""
        carried, queueing_s = self.fluid.carried, self.fluid.queueing_s
        resources = self._setup.resources
        played = self._cast.resources.tolist()
        found = []
        for index, (link, resource) in enumerate(
            zip(self._setup.topology.links, resources.of_link.tolist(), strict=True)
        ):
            size_bytes = carried.get(played[resource], 0.0) if resource == index else 0.0
            if size_bytes:
                utilisation = size_bytes / (link.bandwidth_bytes_per_s * self.env.now)
                waiting_s = queueing_s.get(played[resource], 0.0)
                found.append(LinkUse(link.source, link.target, size_bytes, utilisation, waiting_s))
        return tuple(found)

    def _rank(self, rank: int) -> HostRank | QueuedRank:
        setup = self._setup
        common = (self.env, rank, self.spans, self._switchboard.issue, setup.costs(rank), setup.slowdown(rank))
        if not setup.computes_on_host(rank):
            return QueuedRank(*common)
        profile = setup.profile
        overheads = profile.overheads if profile else HostOverheads(compute_s=0, launch_s=0, wait_s=0)
        host = int(self._cast.resources[setup.host_of_rank[rank]])
        alike = np.count_nonzero((setup.host_of_rank == host) & (self._cast.ranks == rank))
        return HostRank(*common, fluid=self.fluid, cores=Load(host, float(alike), 1.0), overheads=overheads)

    def _record(self, meeting: Meeting, group: str) -> None:
        end_s = meeting.end_s
        for rank, step, start_s, effect in meeting.issued:
            self.spans.append(
                Span(
                    rank, step, effect.lane, effect.operation, "communication", start_s, end_s,
                    effect.size_bytes, group,
                )
            )  # fmt: skip
