"""Setup: what is known of a plan before time begins: who communicates with whom, over what, at which cost."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import numpy as np
from numpy.typing import NDArray

from twinstep.costs import DeviceCosts, device_costs
from twinstep.disturbances import BackgroundFlow, jitter
from twinstep.errors import InputError
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import Strategy
from twinstep.sim.cast import Cast, everybody, folded
from twinstep.sim.circles import Circle, Demand, Places, circles_of, ranks_per_host
from twinstep.sim.emulation import Emulation
from twinstep.sim.eras import eras_of
from twinstep.sim.libraries import Library
from twinstep.sim.network import Resources
from twinstep.topologies import DeviceSpec, Topology

Ints = NDArray[np.int64]

_CHANCE = 1e-3
"""How unequal computations are by chance: the deviation of their logarithm."""


class Setup:
    """A plan on a topology."""

    def __init__(
        self,
        plan: Plan,
        programs: Strategy,
        topology: Topology,
        profile: Profile | None,
        library: Library,
        chance: int | None = None,
    ) -> None:
        self.plan = plan
        self._chance = chance
        self.programs = programs
        self.topology = topology
        self.profile = profile
        self.slots = library.slots
        self.has_streams = library.has_streams
        cores = profile.machine.cores if profile else 1
        self.emulation = _emulation(plan, topology, profile)
        self.resources = Resources(topology, cores, self.emulation)
        devices = list(plan.devices)
        self.host_of_rank = self.resources.host_of_device[devices]
        self._specs = [topology.device_profiles[index] for index in devices]
        self._on_host = np.array([self.computes_on_host(rank) for rank in range(plan.ranks)])
        offloads = plan.partition.offload != "none"
        self.processors = [topology.processors[topology.device_hosts[i]] if offloads else None for i in devices]
        """For each rank, what its host updates parameters with, if it does."""
        self._sharers = np.bincount(self.host_of_rank, minlength=len(self.resources.capacities))
        self._costs: dict[tuple[DeviceSpec, int], DeviceCosts] = {}
        self._keys: list[Hashable] = [programs.key(rank) for rank in range(plan.ranks)]
        nodes = np.array([topology.node_ids[topology.devices[index]] for index in devices])
        hosts = np.array([topology.node_ids[topology.device_hosts[index]] for index in devices])
        self.circles = circles_of(programs, self._keys, Places(nodes, hosts, self.host_of_rank))
        self.first_background = len(self.circles)
        """The index of the first circle of others' traffic."""
        self.circles += self._background()
        self.eras = eras_of(plan, topology, self.resources, self.circles, library)

    def computes_on_host(self, rank: int) -> bool:
        """Tell whether a rank computes on its host's cores, rather than on a device of its own."""
        return self._specs[rank] == "cpu" and self.plan.run.compute == "real"

    def pace(self, rank: int) -> Callable[[int], float]:
        """Give how many times as long a rank's computations take in each step."""
        plan, chance = self.plan, self._chance
        if chance is not None:
            return lambda step: plan.pace(rank, step) * jitter(_CHANCE, chance, rank, step)
        if plan.run.jitter:
            return lambda step: plan.pace(rank, step)
        slowdown = plan.slowdown(rank)
        return lambda step: slowdown

    def costs(self, rank: int) -> DeviceCosts:
        """Give what a rank's kernels cost."""
        key = (self._specs[rank], self._busy_cores(rank))
        if key not in self._costs:
            self._costs[key] = device_costs(key[0], self.profile, busy_cores=key[1])
        return self._costs[key]

    def cast(self, *, fold: bool) -> Cast:
        """Choose whom to simulate."""
        run = self.plan.run
        if (
            not fold or self.emulation or run.jitter or run.learning or run.deaths
        ):  # token buckets, too, make no two alike
            return everybody(self.plan.ranks, self.circles, len(self.resources.capacities))
        slowdowns = {straggler.rank: straggler.slowdown for straggler in self.plan.run.stragglers}
        keys = [
            (self._keys[rank], *devices, self._busy_cores(rank), slowdowns.get(rank, 1.0))
            for rank, devices in enumerate(zip(self._specs, self.processors, strict=True))
        ]
        updating = np.array([processor is not None for processor in self.processors])
        hosts = np.where(self._on_host | updating, self.host_of_rank, -1)
        marks = {resource: number for number, era in enumerate(self.eras) for resource in era.capacities}
        tables = [era.tables for era in self.eras]
        return folded(keys, self.circles, tables, self.resources.capacities, marks, hosts)

    def algorithms(self) -> dict[str, str]:
        """Say how each kind of communication goes about it, by its largest demand."""
        found: dict[str, tuple[int, str]] = {}
        for circle, tariffs in zip(self.circles, self.eras[0].tables, strict=True):
            if circle.is_host_copies:
                continue
            for demand, tariff in tariffs.items():
                name = f"{demand.kind} in group {circle.group}"
                found[name] = max(found.get(name, (-1, "")), (demand.size_bytes, tariff.algorithm))
        return {name: algorithm for name, (_, algorithm) in sorted(found.items())}

    def _busy_cores(self, rank: int) -> int:
        return int(self._sharers[self.host_of_rank[rank]]) if self._on_host[rank] else 1

    def _background(self) -> Iterator[Circle]:
        """Make a circle of one row for the traffic of each of the others."""
        ids = self.topology.node_ids
        for number, other in enumerate(self.plan.run.background):
            if isinstance(other, BackgroundFlow):
                per_host, demand = 1, Demand("send", other.size)
            else:
                hosts = np.array([[ids[self.topology.host_of(device)] for device in other.devices]])
                per_host = int(ranks_per_host(hosts)[0])
                demand = Demand(other.collective, other.size)
            nodes = np.array([[ids[end] for end in other.ends]])
            yield Circle(f"background {number}", np.zeros((1, 0), dtype=np.int64), nodes, per_host, (demand,))


def _emulation(plan: Plan, topology: Topology, profile: Profile | None) -> Emulation | None:
    """Give what an emulated cluster adds; None for a plan that is not for one."""
    if not plan.is_on_emulated_cluster:
        return None
    if profile is None or profile.emulation is None:
        raise InputError(
            "run.backend is emulated, and the profile does not say what that costs",
            remedy="run `twinstep calibrate` where network namespaces can be made and `ip` and `tc` are installed",
        )
    return Emulation(plan, topology, profile.emulation, profile.machine.cores)
