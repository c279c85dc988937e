"""Ensembles: simulations of one plan that differ by chance alone.

Where whoever comes first goes on first, a microsecond decides who that is, and what follows is another course of
events. So one simulation is one of many that may happen, as one execution is. In those of an ensemble each computation
takes longer or shorter by about a thousandth; how much it is makes no difference (docs/design/0004).

Of a long run of such a plan only the beginning is simulated, which stands for the whole: nothing repeats exactly, but
its rates settle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import Strategy, lower
from twinstep.progress import Spread, pooled_staleness, progress
from twinstep.sim.simulate import Simulation, simulate
from twinstep.topologies import Topology

_WORKER_STEPS = 2400
"""So many are simulated, of all simulations together: their rate is known within about a percent then."""
_MOST = 9
_LONG = 100_000
"""Messages from workers to servers in a run of which the beginning alone is simulated."""
_SETTLING = 20
"""Steps of each worker until its rate does not depend any more on all having begun together; as many count then."""
_BOUNDS = 10
"""Times the bound of stale synchrony, before it is known how often workers meet it."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """What may happen."""

    median: Simulation
    """That of the median rate; with what is learnt in it, and the time and effects of all."""
    spread: Spread | None
    """None where there is one simulation."""


def simulate_by_chance(
    plan: Plan, programs: Strategy, topology: Topology, profile: Profile | None, *, whole: bool = False
) -> Ensemble:
    """Predict a plan as often as chance asks for, or its beginning unless it must be the `whole` run.

    Raises what `simulate` raises.
    """
    beginning = None if whole else beginning_of(plan, topology)
    if beginning is not None:
        part = simulate(beginning, lower(beginning), topology, profile)
        return Ensemble(replace(part, timeline=replace(part.timeline, of_steps=plan.total_steps)), None)
    count = simulations_of(plan)
    if count == 1:
        return Ensemble(simulate(plan, programs, topology, profile), None)
    unlearnt = plan.model_copy(update={"run": plan.run.model_copy(update={"learning": False})})
    lowered = lower(unlearnt) if plan.run.learning else programs
    found = [simulate(unlearnt, lowered, topology, profile, chance=chance) for chance in range(count)]
    courses = [progress(each.timeline) for each in found]
    by_rate = sorted(range(count), key=lambda number: courses[number].worker_steps_per_s)
    chosen = by_rate[count // 2]
    median = simulate(plan, programs, topology, profile, chance=chosen) if plan.run.learning else found[chosen]
    together = replace(
        median,
        effects=sum(each.effects for each in found),
        wall_s=sum(each.wall_s for each in found) + (median.wall_s if plan.run.learning else 0.0),
    )
    rates = tuple(courses[number].worker_steps_per_s for number in by_rate)
    return Ensemble(together, Spread(rates, pooled_staleness(courses)))


def beginning_of(plan: Plan, topology: Topology) -> Plan | None:
    """Give the plan with the steps that are simulated of a long run; None where all of them are.

    What is learnt, and what happens at a time of the run, needs all. Workers of different speed (stragglers, other
    devices or links, more samples, a server beside them) fall apart for ever: no beginning tells what comes later.
    """
    run, messages = plan.run, plan.workers * plan.sync.server_count
    is_steady = not (run.learning or run.deaths or run.link_changes or run.background)
    devices = set(topology.devices)
    links = {link.bandwidth_bytes_per_s for link in topology.links if not {link.source, link.target} & devices}
    kinds = {topology.device_profiles[index] for index in plan.devices}
    are_even = plan.partition.placement == "range" and not plan.sync.servers.beside_workers
    are_alike = are_even and not run.stragglers and len(kinds) == 1 and len(links) <= 1
    steps = max(_SETTLING, -(-_WORKER_STEPS // plan.workers), _BOUNDS * plan.sync.bound)
    warmup = max(run.warmup, _SETTLING)
    is_long = messages * plan.total_steps > _LONG and plan.total_steps > warmup + steps
    if not (plan.sync.goes_by_arrival and is_steady and are_alike and is_long):
        return None
    return plan.model_copy(update={"run": run.model_copy(update={"steps": steps, "warmup": warmup})})


def simulations_of(plan: Plan) -> int:
    """Count the simulations that a plan needs: an odd number, so that one of them is the median."""
    if not plan.sync.goes_by_arrival:
        return 1
    wanted = math.ceil(_WORKER_STEPS / (plan.workers * plan.run.steps))
    return min(_MOST, wanted + 1 - wanted % 2)
