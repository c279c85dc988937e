"""Cautions: what an emulated cluster cannot have of a plan, what of a run stands for all, and what the machine did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from twinstep.built_links import built_links
from twinstep.compare import Comparison
from twinstep.profile import EmulationCosts, Profile
from twinstep.report.words import BUSY_CORES, core_speed_words, load_words
from twinstep.scenario import Scenario
from twinstep.shaping import Shape
from twinstep.timeline import Timeline
from twinstep.topologies import Link
from twinstep.units import format_duration

_WARNED_SHARE = 0.5
"""Of the cores. Single pieces on slow links take twice what calibration sees of many (docs/physics.md)."""


def cautions(scenario: Scenario, profile: Profile | None) -> Iterator[str]:
    """Say in sentences what is missing from an emulated cluster's times, and what bounds them besides its links."""
    if profile is None or profile.emulation is None or not scenario.plan.is_on_emulated_cluster:
        return
    costs, cores = profile.emulation, profile.machine.cores
    links = built_links(scenario.plan, scenario.topology).values()
    latency_s = max((link.latency_s for link in links), default=0.0)
    if latency_s > costs.step_s and not costs.delays_links:
        yield (
            f"This kernel cannot delay packets: the links' latency, up to {format_duration(latency_s)}, is left out. "
            "Predict with run.backend local to have it."
        )
    needed = _cores_needed(scenario, links, costs)
    if needed > _WARNED_SHARE * cores:
        yield (
            f"All links at full rate would take at least {needed:.1f} of this machine's {cores} cores: times may show "
            "its limit and not the links'. Lower the bandwidths, or predict with run.backend local."
        )


def of_the_beginning(timeline: Timeline) -> Iterator[str]:
    """Say which steps stand for all, where a long run is simulated in part."""
    if timeline.of_steps:
        yield (
            f"Simulated are the first {timeline.total_steps} of {timeline.of_steps} steps of every worker, of which "
            f"the last {len(timeline.steps())} count: rates and staleness go on like that, bytes are those of the "
            "beginning."
        )


def of_the_machine(comparison: Comparison, other_load_cores: float | None) -> Iterator[str]:
    """Say what the machine made of a comparison: that it was busy, or else that its cores had another speed."""
    if other_load_cores is not None and other_load_cores > BUSY_CORES:
        yield load_words(other_load_cores)
    elif speed := core_speed_words(comparison):
        yield speed


def _cores_needed(scenario: Scenario, links: Iterable[Link], costs: EmulationCosts) -> float:
    """Give the cores that all links take while they are full."""
    hosts = set(scenario.topology.hosts)
    needed = 0.0
    for link in links:
        rate = link.bandwidth_bytes_per_s
        piece_bytes = Shape(rate, 0.0, scenario.plan.communication.mtu).piece_bytes
        needed += rate / piece_bytes * costs.piece_cpu_s
        needed += rate * costs.byte_cpu_s if scenario.topology.place_of(link.source) in hosts else 0.0
    return needed
