"""Simulate a plan: programs, topology and costs in; a Timeline out.

Ties: events at the same simulated time happen in the order in which they were scheduled, and processes are created in
the order of ranks, so equal plans give equal timelines, whatever the hash seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from twinstep.communication import LinkUse
from twinstep.garbage import paused_garbage_collection
from twinstep.learning.threads import one_thread
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import Strategy
from twinstep.sim.libraries import Library, library_of
from twinstep.sim.setup import Setup
from twinstep.sim.world import World
from twinstep.timeline import Timeline
from twinstep.topologies import Topology


@dataclass(frozen=True, slots=True)
class Simulation:
    """A predicted timeline, and what it took to get it."""

    timeline: Timeline
    links: Callable[[], tuple[LinkUse, ...]]
    """Gives what every link carried, of those that carried anything."""
    algorithms: dict[str, str]
    """How each kind of communication went about it, in words."""
    effects: int
    """Effects of all ranks that were simulated."""
    rate_changes: int
    """How many times an activity was given a rate."""
    wall_s: float
    """Seconds of real time."""


def simulate(
    plan: Plan,
    programs: Strategy,
    topology: Topology,
    profile: Profile | None,
    *,
    library: Library | None = None,
    fold: bool = True,
    chance: int | None = None,
) -> Simulation:
    """Predict a plan on a topology.

    `profile` is needed where the topology's devices are of a kind that must be measured, and holds the measured
    collectives. `library` stands in for the plan's; without `fold` every rank is simulated, for the same times. With
    `chance`, a seed, each computation takes longer or shorter by about a thousandth.
    Raises InputError where the profile is missing, RunError where a rank never ends.
    """
    began_s = time.perf_counter()
    with paused_garbage_collection(), one_thread():
        setup = Setup(plan, programs, topology, profile, library or library_of(plan, topology, profile), chance)
        world = World(setup, setup.cast(fold=fold))
        world.run()
        timeline = _timeline(plan, programs, world)
    return Simulation(
        timeline=timeline,
        links=world.links,
        algorithms=setup.algorithms(),
        effects=sum(rank.effects for rank in world.ranks.values()),
        rate_changes=world.fluid.rate_changes,
        wall_s=time.perf_counter() - began_s,
    )


def _timeline(plan: Plan, programs: Strategy, world: World) -> Timeline:
    """Put together what the ranks that live have recorded."""
    lost = frozenset(world.lost)
    return Timeline(
        world.records.spans(lost),
        ranks=plan.ranks,
        warmup_steps=plan.run.warmup,
        folds=world.folds(),
        observations=world.records.observations(lost),
        period=programs.period,
        reactive=programs.reactive,
        lost=tuple(sorted(lost)),
    )
