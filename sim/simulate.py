"""Simulate a plan: programs, topology and costs in; a Timeline out.

Ties: events at the same simulated time happen in the order in which they were scheduled, and processes are created in
the order of ranks, so equal plans give equal timelines, whatever the hash seed.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import simpy

from twinstep.costs import DeviceCosts, device_costs
from twinstep.errors import RunError
from twinstep.plan import Plan
from twinstep.profile import HostOverheads, Profile
from twinstep.programs import DataParallel
from twinstep.sim.communication import Communicator, Meeting
from twinstep.sim.fluid import Fluid
from twinstep.sim.libraries import Gloo
from twinstep.sim.ranks import HostRank, QueuedRank
from twinstep.timeline import Span, Timeline
from twinstep.topologies import Topology


@dataclass(frozen=True, slots=True)
class Simulation:
    """A predicted timeline, and what it took to get it."""

    timeline: Timeline
    effects: int
    """Effects of all ranks."""
    wall_s: float
    """Seconds of real time."""


def simulate(plan: Plan, programs: DataParallel, topology: Topology, profile: Profile | None) -> Simulation:
    """Predict a plan on a topology.

    `profile` is needed where the topology's devices are of a kind that must be measured, and holds the measured
    collectives. Raises InputError where it is missing, RunError where a rank never ends.
    """
    began_s = time.perf_counter()
    with _without_garbage_collection():
        world = _World(plan, programs, topology, profile)
        world.env.run()
        world.check_all_ended()
        spans = tuple(sorted(world.spans, key=itemgetter(0, 5, 2, 3)))  # by rank, start, lane, operation
    effects = sum(rank.effects for rank in world.ranks)
    return Simulation(
        Timeline(spans, ranks=plan.ranks, warmup_steps=plan.run.warmup), effects, time.perf_counter() - began_s
    )


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles: it would visit every span there is again and again, and spans have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _World:
    """Everything of one simulation."""

    def __init__(self, plan: Plan, programs: DataParallel, topology: Topology, profile: Profile | None) -> None:
        self.env = simpy.Environment()
        self.spans: list[Span] = []
        self._plan = plan
        self._topology = topology
        self._profile = profile
        self._fluid = Fluid(self.env, _capacities(topology, profile))
        library = Gloo(topology, profile)
        self.communicators = {
            name: Communicator(self.env, self._fluid, library, ranks, self._record)
            for name, ranks in programs.groups.items()
        }
        self._busy_cores = Counter(topology.host_of(device) for device in topology.devices[: plan.ranks])
        self._costs: dict[Hashable, DeviceCosts] = {}
        self.ranks = [self._rank(rank) for rank in range(plan.ranks)]
        self._processes = [self.env.process(rank.run(programs.program(index))) for index, rank in enumerate(self.ranks)]

    def _rank(self, rank: int) -> HostRank | QueuedRank:
        device = self._topology.devices[rank]
        host = self._topology.host_of(device)
        spec = self._topology.device_profile(device)
        is_host_device = spec == "cpu" and self._plan.run.compute == "real"
        busy_cores = self._busy_cores[host] if is_host_device else 1
        if (spec, busy_cores) not in self._costs:
            self._costs[spec, busy_cores] = device_costs(spec, self._profile, busy_cores=busy_cores)
        common = (
            self.env,
            rank,
            self.spans,
            self.communicators,
            self._costs[spec, busy_cores],
            self._plan.slowdown(rank),
        )
        if not is_host_device:
            return QueuedRank(*common)
        overheads = self._profile.overheads if self._profile else HostOverheads(compute_s=0, launch_s=0, wait_s=0)
        return HostRank(*common, fluid=self._fluid, host=host, overheads=overheads)

    def _record(self, meeting: Meeting) -> None:
        effect, end_s = meeting.effect, meeting.end_s
        for rank, step, start_s in meeting.issued:
            self.spans.append(
                Span(
                    rank, step, effect.lane, effect.operation, "communication", start_s, end_s,
                    effect.size_bytes, effect.group,
                )
            )  # fmt: skip

    def check_all_ended(self) -> None:
        """Raise RunError naming the first rank that hangs and what it hangs on."""
        for index, process in enumerate(self._processes):
            if process.is_alive:
                joined = {name: c.unfinished() for name, c in self.communicators.items()}
                raise RunError(
                    f"rank {index} never ends: it hangs on {self.ranks[index].last}; joined so far: {joined}"
                )


def _capacities(topology: Topology, profile: Profile | None) -> dict[Hashable, float]:
    """Give cores to hosts and bytes a second to links."""
    machine_cores = profile.machine.cores if profile else 1
    cores: dict[Hashable, float] = {host: float(topology.cores_of(host) or machine_cores) for host in topology.hosts}
    return cores | {link: link.bandwidth_bytes_per_s for link in topology.links}
