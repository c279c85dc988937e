"""Setup: what is known of a plan before time begins: who communicates with whom, over what, at which cost."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from twinstep.costs import DeviceCosts, device_costs
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import Strategy
from twinstep.sim.cast import Cast, Tables, everybody, folded
from twinstep.sim.circles import circles_of
from twinstep.sim.libraries import Library
from twinstep.sim.network import Network, Resources
from twinstep.sim.tariffs import Tariffs
from twinstep.topologies import DeviceSpec, Topology

Ints = NDArray[np.int64]


class Setup:
    """A plan on a topology."""

    def __init__(
        self, plan: Plan, programs: Strategy, topology: Topology, profile: Profile | None, library: Library
    ) -> None:
        self.plan = plan
        self.programs = programs
        self.topology = topology
        self.profile = profile
        self.slots = library.slots
        self.resources = Resources(topology, profile.machine.cores if profile else 1)
        self.host_of_rank = self.resources.host_of_device[: plan.ranks]
        self._library = library
        self._node_of_rank = np.array([topology.node_ids[device] for device in topology.devices[: plan.ranks]])
        self._specs = topology.device_profiles[: plan.ranks]
        self._on_host = np.array([self.computes_on_host(rank) for rank in range(plan.ranks)])
        self._sharers = np.bincount(self.host_of_rank, minlength=len(self.resources.capacities))
        slow = {straggler.rank: straggler.slowdown for straggler in plan.run.stragglers}
        self._slowdowns = [slow.get(rank, 1.0) for rank in range(plan.ranks)]
        self._costs: dict[tuple[DeviceSpec, int], DeviceCosts] = {}
        self.keys: list[Hashable] = [programs.key(rank) for rank in range(plan.ranks)]
        self.circles = circles_of(programs, self.keys, self.host_of_rank)
        self.tables = self._tables()

    def computes_on_host(self, rank: int) -> bool:
        """Tell whether a rank computes on its host's cores, rather than on a device of its own."""
        return self._specs[rank] == "cpu" and self.plan.run.compute == "real"

    def slowdown(self, rank: int) -> float:
        """Give how many times as long a rank's computations take."""
        return self._slowdowns[rank]

    def costs(self, rank: int) -> DeviceCosts:
        """Give what a rank's kernels cost."""
        key = (self._specs[rank], self._busy_cores(rank))
        if key not in self._costs:
            self._costs[key] = device_costs(key[0], self.profile, busy_cores=key[1])
        return self._costs[key]

    def cast(self, *, fold: bool) -> Cast:
        """Choose whom to simulate."""
        if not fold:
            return everybody(self.plan.ranks, self.circles, len(self.resources.capacities))
        keys = [
            (self.keys[rank], self._specs[rank], self._busy_cores(rank), self._slowdowns[rank])
            for rank in range(self.plan.ranks)
        ]
        hosts = np.where(self._on_host, self.host_of_rank, -1)
        return folded(keys, self.circles, [self.tables], self.resources.capacities, {}, hosts)

    def algorithms(self) -> dict[str, str]:
        """Say how each kind of communication goes about it, by its largest demand."""
        found: dict[str, tuple[int, str]] = {}
        for circle, tariffs in zip(self.circles, self.tables, strict=True):
            for demand, tariff in tariffs.items():
                kind = circle.key[0] if isinstance(circle.key, tuple) else circle.key
                name = f"{demand.kind} in group {kind}"
                found[name] = max(found.get(name, (-1, "")), (demand.size_bytes, tariff.algorithm))
        return {name: algorithm for name, (_, algorithm) in sorted(found.items())}

    def _busy_cores(self, rank: int) -> int:
        return int(self._sharers[self.host_of_rank[rank]]) if self._on_host[rank] else 1

    def _tables(self) -> Tables:
        network = Network(self.topology, self.resources, self.plan.communication.routing)
        tariffs = Tariffs(network, self._library, self.plan.communication.algorithm, self._node_of_rank)
        return [{demand: tariffs.tariff(circle, demand) for demand in circle.demands} for circle in self.circles]
