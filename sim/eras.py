"""Eras: from one change of the links to the next, what everything costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twinstep.disturbances import LinkChange
from twinstep.errors import InputError, RunError
from twinstep.plan import Plan
from twinstep.sim.cast import Tables
from twinstep.sim.circles import Circle
from twinstep.sim.libraries import Library
from twinstep.sim.network import Floats, Network, Resources
from twinstep.sim.tariffs import Tariffs
from twinstep.topologies import Topology


@dataclass(frozen=True, slots=True)
class Era:
    """What holds from some time on."""

    begin_s: float
    capacities: Mapping[int, float]
    """Resources that change then, and what they have since."""
    tables: Tables
    """What communication costs since."""
    error: InputError | None = None
    """Why communication is no longer possible; the tables are those of before."""


def eras_of(
    plan: Plan, topology: Topology, resources: Resources, circles: Sequence[Circle], library: Library
) -> list[Era]:
    """List the eras of a plan.

    Routes change where a link fails or comes back, and what a pipeline needs to fill with every bandwidth. Algorithms
    never change. Raises InputError where ranks cannot communicate from the start.
    """
    dead: frozenset[int] = frozenset()
    capacities = resources.capacities.copy()
    networks = {dead: Network(topology, resources, plan.communication.routing, dead)}
    eras = [Era(0.0, {}, _tables(plan, networks[dead], capacities, circles, library, ()))]
    for index, change in sorted(enumerate(plan.run.link_changes), key=lambda item: item[1].at or 0.0):
        links = _links(topology, change)
        dead = dead - links if change.bandwidth else dead | links
        changed = {int(resources.of_link[link]): change.bandwidth or 0.0 for link in sorted(links)}
        for resource, capacity in changed.items():
            capacities[resource] = capacity
        if dead not in networks:
            networks[dead] = Network(topology, resources, plan.communication.routing, dead)
        earlier = eras[-1].tables
        try:
            tables, error = _tables(plan, networks[dead], capacities, circles, library, earlier), None
        except RunError as found:
            remedy = "give the traffic another way, or the link a bandwidth instead of a failure"
            tables, error = earlier, InputError(str(found), remedy=remedy, place=f"run.link_changes[{index}]")
        eras.append(Era(change.at or 0.0, changed, tables, error))
    return eras


def _links(topology: Topology, change: LinkChange) -> frozenset[int]:
    ends = {(change.source, change.target), (change.target, change.source)}
    return frozenset(index for index, link in enumerate(topology.links) if (link.source, link.target) in ends)


def _tables(
    plan: Plan, network: Network, capacities: Floats, circles: Sequence[Circle], library: Library, earlier: Tables
) -> Tables:
    with np.errstate(divide="ignore"):  # what is dead lets nothing through
        tariffs = Tariffs(network, capacities, library, plan.communication.algorithm)
        return [
            {
                demand: tariffs.tariff(circle, demand, earlier[index][demand] if earlier else None)
                for demand in circle.demands
            }
            for index, circle in enumerate(circles)
        ]
