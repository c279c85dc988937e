"""World: a setup and its cast, running."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import simpy

from twinstep.communication import LinkUse
from twinstep.costs import device_costs
from twinstep.disturbances import BackgroundCollective, BackgroundFlow, Death
from twinstep.effects import Collective, Effect, Mark, Transfer
from twinstep.errors import RunError
from twinstep.profile import HostOverheads
from twinstep.sim.cast import Cast
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.ranks import Events, HostRank, HostShare, QueuedRank
from twinstep.sim.records import Records
from twinstep.sim.setup import Setup
from twinstep.sim.switchboard import OTHERS, Switchboard
from twinstep.timeline import Twins


class World:
    """Everything of one simulation."""

    def __init__(self, setup: Setup, cast: Cast) -> None:
        self.env = simpy.Environment()
        self.fluid = Fluid(
            self.env, setup.resources.capacities.tolist(), setup.emulation.buckets if setup.emulation else {}
        )
        self.records = Records()
        self._setup = setup
        self._cast = cast
        self._switchboard = Switchboard(self.env, self.fluid, cast, setup, self.records.meet)
        self._switchboard.use(setup.eras[0].tables)
        played = np.flatnonzero(cast.ranks == np.arange(len(cast.ranks))).tolist()
        self.ranks = {rank: self._rank(rank) for rank in played}
        self.env.process(self._change())
        self.lost: list[int] = []
        """Ranks that died."""
        self._processes = {
            index: self.env.process(_until_death(rank.run(setup.programs.program(index))))
            for index, rank in self.ranks.items()
        }
        for death in setup.plan.run.deaths:
            self.env.process(self._die(death))
        self._others = [
            self.env.process(self._background(number, other)) for number, other in enumerate(setup.plan.run.background)
        ]

    def run(self) -> None:
        """Let time pass until all ranks have ended. Raises RunError naming one that never does."""
        ended = simpy.AnyOf(self.env, [simpy.AllOf(self.env, self._processes.values()), *self._others])
        try:
            self.env.run(until=ended)
        except RuntimeError:
            if ended.triggered or self.env.peek() < math.inf:
                raise
        self.fluid.stop()
        for index, process in self._processes.items():
            if process.is_alive:
                communicators = self._switchboard.communicators.values()
                joined = [unfinished for c in communicators if (unfinished := c.unfinished())]
                raise RunError(
                    f"rank {index} never ends: it hangs on {_words(self.ranks[index].last)}; joined so far: {joined}"
                )

    def _change(self) -> Events:
        """Change links when their time comes."""
        for era in self._setup.eras[1:]:
            if era.begin_s > self.env.now:
                yield self.env.timeout(era.begin_s - self.env.now)
            for resource, capacity in era.capacities.items():
                if self._cast.resources[resource] == resource:
                    self.fluid.set_capacity(resource, capacity)
            if era.error is not None:
                raise era.error
            self._switchboard.use(era.tables)

    def _die(self, death: Death) -> Events:
        """End a rank when its time comes; the others hear of it."""
        yield self.env.timeout(death.at)
        process = self._processes[death.rank]
        if process.is_alive:
            process.interrupt()
            self.lost.append(death.rank)
            self._switchboard.hang_up(death.rank)

    def _background(self, number: int, other: BackgroundFlow | BackgroundCollective) -> Events:
        """Send others' traffic, until the ranks hang."""
        effect: Collective | Transfer
        if isinstance(other, BackgroundFlow):
            effect = Transfer("send", "background", source=0, target=1, size_bytes=other.size, lane="background")
        else:
            effect = Collective(other.collective, "background", other.size, "background")
        communicator = self._switchboard.background(self._setup.first_background + number, effect)
        yield self.env.timeout(other.begin or 0.0)
        while not self._hangs():
            pause = self.env.timeout(other.every or 0.0)
            yield communicator.issue(OTHERS, 0, effect, self.env.now).complete
            yield pause

    def _hangs(self) -> bool:
        """Tell whether all ranks that go on wait for communications that others never join."""
        return all(rank.hangs() for index, rank in self.ranks.items() if self._processes[index].is_alive)

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
                utilisation = size_bytes / self.fluid.offered(played[resource])
                waiting_s = queueing_s.get(played[resource], 0.0)
                found.append(LinkUse(link.source, link.target, size_bytes, utilisation, waiting_s))
        return tuple(found)

    def _rank(self, rank: int) -> HostRank | QueuedRank:
        setup = self._setup
        common = (
            self.env,
            rank,
            self.records,
            self._switchboard.connect,
            lambda: setup.costs(rank),
            setup.pace(rank),
        )
        if not setup.computes_on_host(rank):
            return QueuedRank(*common, host=self._host_share(rank))
        profile = setup.profile
        overheads = profile.overheads if profile else HostOverheads(compute_s=0, launch_s=0, wait_s=0)
        return HostRank(*common, fluid=self.fluid, cores=self._host_load(rank, 1.0), overheads=overheads)

    def _host_load(self, rank: int, cores: float) -> Load:
        """Load cores of a rank's host for it, and for those on it whom it stands for."""
        host = int(self._cast.resources[self._setup.host_of_rank[rank]])
        alike = np.count_nonzero((self._setup.host_of_rank == host) & (self._cast.ranks == rank))
        return Load(host, alike * cores, cores)

    def _host_share(self, rank: int) -> HostShare | None:
        """Let a rank use all cores of its host for what it offloads, as long as nobody else does."""
        setup = self._setup
        processor = setup.processors[rank]
        if processor is None:
            return None
        cores = float(setup.resources.capacities[setup.host_of_rank[rank]])
        costs = device_costs(processor, setup.profile, busy_cores=1)
        return HostShare(self.fluid, self._host_load(rank, cores), costs)


def _until_death(life: Events) -> Events:
    with contextlib.suppress(simpy.Interrupt):
        yield from life


def _words(effect: Effect | None) -> str:
    return "its first operation" if effect is None or isinstance(effect, Mark) else effect.operation
