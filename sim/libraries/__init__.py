"""Libraries: which algorithm carries a collective, and what the software adds to it.

`gloo` as it was measured, `nccl` by its own tuning model, `ideal` as the least there can be; `offer` is what they all
give.
"""

from __future__ import annotations

from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.sim.libraries.gloo import Gloo
from twinstep.sim.libraries.ideal import Ideal
from twinstep.sim.libraries.nccl import Nccl
from twinstep.sim.libraries.offer import HostTime, Library, Offer, offers_of
from twinstep.topologies import Topology

__all__ = ["Gloo", "HostTime", "Ideal", "Library", "Nccl", "Offer", "library_of", "offers_of"]


def library_of(plan: Plan, topology: Topology, profile: Profile | None) -> Library:
    """Give the library that carries a plan's communication.

    What gloo was measured to take on one host holds for ranks on one host, emulated ones included, and for the cores
    of hosts like it; not for accelerators of hosts that are described.
    """
    first = topology.devices[0]
    name = plan.library_on(topology.device_profile(first))
    if name == "gloo":
        if plan.is_on_emulated_cluster:
            return Gloo(profile, plan.communication.mtu, profile.emulation if profile else None)
        on_one_host = len({topology.device_hosts[index] for index in plan.devices}) == 1
        known = profile if on_one_host or topology.device_profile(first) == "cpu" else None
        return Gloo(known, plan.communication.mtu)
    if name == "ideal":
        return Ideal()
    return Nccl(max(link["bandwidth_bytes_per_s"] for _, _, link in topology.graph.out_edges(first, data=True)))
