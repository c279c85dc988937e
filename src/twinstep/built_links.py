"""Built links: those of a topology that an emulated cluster has, with the bandwidth that they have from the start.

A device lives in its host's namespace, so a link between the two is not built; every other link is.
"""

from __future__ import annotations

from twinstep.plan import Plan
from twinstep.topologies import Link, Topology


def built_links(plan: Plan, topology: Topology) -> dict[int, Link]:
    """Give the links that are built, by their index in the topology."""
    changes = [change for change in plan.run.link_changes if not change.at and change.bandwidth]
    changed = {frozenset((change.source, change.target)): change.bandwidth for change in changes}
    return {
        index: link._replace(bandwidth_bytes_per_s=changed.get(frozenset(link[:2])) or link.bandwidth_bytes_per_s)
        for index, link in enumerate(topology.links)
        if topology.place_of(link.source) != topology.place_of(link.target)
    }
