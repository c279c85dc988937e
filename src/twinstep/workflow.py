"""The workflow: scenario -> programs -> simulate | measure -> timelines -> what a report shows.

Torch, plotly and simpy are imported only by the functions that need them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress, pairwise
from pathlib import Path

from twinstep.assumptions import assumptions
from twinstep.built_links import built_links
from twinstep.cautions import cautions, of_the_beginning, of_the_machine
from twinstep.communication import LinkCount, LinkCounts, communication
from twinstep.compare import compare
from twinstep.core_speed import core_speed
from twinstep.errors import InputError
from twinstep.memory import check_memory, memory_over_time, peak_parts, predicted_use
from twinstep.memory_use import MemoryUse
from twinstep.plan import Plan
from twinstep.profile import Profile, cached_path, cached_profile, read_profile, to_json
from twinstep.programs import Hybrid, Strategy, bubbles, lower, own_names, representative_pipeline
from twinstep.report.contents import Assumption, Contents, Measurement, MemoryCourse, Prediction
from twinstep.report.files import make_folder, write_atomically
from twinstep.scenario import Scenario, plan_yaml
from twinstep.timeline import Timeline, kind_of_group
from twinstep.topologies import DeviceRates
from twinstep.units import format_duration
from twinstep.workloads import CollectiveBench

Progress = Callable[[float], None]
"""Told the share that is done, 0 to 1."""
_MOST_UNFOLDED = 200_000
"""Spans up to which a prediction is written for every rank; beyond, for representatives."""


def predict(
    scenario: Scenario, profile: Profile | None, *, every_rank: bool = False, whole: bool = False
) -> Prediction:
    """Simulate a scenario; give every rank's spans where they are asked for, or few, else those of representatives.

    The beginning of a long run may stand for it, unless the `whole` is asked for, to compare it with an execution.
    """
    from twinstep.sim import simulate_by_chance

    check_memory(scenario)
    programs = lower(scenario.plan)
    ensemble = simulate_by_chance(scenario.plan, programs, scenario.topology, profile, whole=whole)
    simulation = ensemble.median
    timeline = simulation.timeline
    memory_bytes = {
        twins.representative: peak_parts(programs, scenario.topology, twins.representative) for twins in timeline.twins
    }
    uses = {
        rank: predicted_use(programs, memory_bytes[twins.representative])
        for twins in timeline.twins
        for rank in twins.ranks
    }
    fullest = max(memory_bytes, key=lambda rank: memory_bytes[rank]["total"])
    if every_rank or len(timeline.spans) * timeline.ranks <= _MOST_UNFOLDED * len(timeline.twins):
        timeline = timeline.unfolded(own_names(programs.groups))
    return Prediction(
        timeline=timeline,
        peak_memory_bytes=memory_bytes[fullest],
        simulation_wall_s=simulation.wall_s,
        events=simulation.effects,
        communication=communication(simulation.timeline, _group_sizes(programs), simulation.links()),
        algorithms=simulation.algorithms,
        bubbles=bubbles(scenario.plan, timeline),
        memory=_memory(scenario, programs, timeline, fullest, memory_bytes[fullest]["fragmentation_allowance"]),
        memory_by_rank={twins.representative: uses[twins.representative] for twins in timeline.twins},
        spread=ensemble.spread,
    )


def _memory(
    scenario: Scenario, programs: Strategy, timeline: Timeline, rank: int, allowance_bytes: int
) -> MemoryCourse | None:
    """Follow the memory of a rank of a hybrid plan."""
    if not isinstance(programs, Hybrid):
        return None
    device = scenario.topology.device_profiles[scenario.plan.devices[rank]]
    return MemoryCourse(
        rank=rank,
        moments=tuple(memory_over_time(programs, timeline, rank)),
        device_bytes=device.memory if isinstance(device, DeviceRates) else None,
        allowance_bytes=allowance_bytes,
    )


def _group_sizes(programs: Strategy) -> dict[str, int]:
    return {kind: groups.size for kind, groups in programs.groups.items()}


def _seen_group_sizes(timeline: Timeline) -> dict[str, int]:
    """Count the ranks of groups that torch's wrappers made, by kind: those that have communicated in one of them."""
    ranks: dict[str, set[int]] = defaultdict(set)
    for span in timeline.spans:
        if span.phase == "communication":
            ranks[span.group].add(span.rank)
    return {kind_of_group(group): len(members) for group, members in ranks.items()}


def check_executable(scenario: Scenario) -> None:
    """Raise InputError where this machine cannot run the plan: for its kind, memory, or hosts that cannot be built."""
    check_memory(scenario)
    if scenario.plan.predicted_only:
        raise InputError(
            f"the plan can only be predicted: {scenario.plan.predicted_only}",
            remedy="use `twinstep predict`, or leave these keys at their defaults",
        )
    if scenario.plan.is_on_emulated_cluster:
        from twinstep.exec.emulated.blueprint import blueprint

        blueprint(scenario.plan, scenario.topology)
    elif len(scenario.hosts) > 1:
        raise InputError(
            f"the plan spans {len(scenario.hosts)} hosts, so the machine's own processes cannot stand for them",
            remedy="set run.backend to emulated, use `twinstep predict`, or run it on its hosts with torchrun",
        )


def measure(scenario: Scenario, profile: Profile | None, progress: Progress) -> Measurement:
    """Execute a scenario on this machine. Raises RunError where a rank fails."""
    from twinstep.exec.measure import measure as execute

    steps = scenario.plan.run.warmup + scenario.plan.run.steps
    measured = execute(scenario.plan, profile, lambda step: progress(max(0, step) / steps))
    counters = measured.counters
    counts = _link_counts(scenario, **counters.model_dump()) if counters else None
    found = measurement(scenario, measured.timeline, measured.losses, measured.memory)
    return replace(found, counts=counts, other_load_cores=measured.other_load_cores)


def by_programs(scenario: Scenario) -> Scenario | None:
    """Give the scenario for the rank programs, where torch's wrappers are to run it and the programs can, too."""
    plan = scenario.plan
    run = plan.run.model_copy(update={"engine": "program"})
    other = replace(scenario, plan=plan.model_copy(update={"run": run}))
    return other if plan.run.engine == "native" and not other.plan.predicted_only else None


def measurement(
    scenario: Scenario, timeline: Timeline, losses: tuple[float, ...], memory_by_rank: Mapping[int, MemoryUse]
) -> Measurement:
    """Put together what is known of an execution; of the machine's other load, nothing."""
    sizes = _seen_group_sizes(timeline) if scenario.plan.run.engine == "native" else {}
    found = communication(timeline, sizes | _group_sizes(lower(scenario.plan)))
    return Measurement(
        timeline,
        losses,
        other_load_cores=None,
        communication=found,
        bubbles=bubbles(scenario.plan, timeline),
        memory_by_rank=memory_by_rank,
        no_memory=_no_memory(scenario.plan),
    )


def _no_memory(plan: Plan) -> str:
    """Say why no memory is measured, if none is."""
    if plan.run.compute == "emulated":
        return "compute is emulated, so ranks hold no model"
    return "workers share their parameters" if plan.sync.method == "shared_memory" else ""


def _link_counts(
    scenario: Scenario,
    times_s: Sequence[float],
    busy_s: Sequence[float],
    cores: int,
    course: Mapping[int, Sequence[int]],
) -> LinkCounts:
    """Relate counted bytes to what each link could have carried, as the plan has changed it."""
    built = built_links(scenario.plan, scenario.topology)
    links = []
    for index, size_bytes in course.items():
        source, target, rate, *_ = built[index]
        parts = zip(pairwise(size_bytes), pairwise(times_s), strict=True)
        shares = tuple((after - before) / (rate * (end - begin)) for (before, after), (begin, end) in parts)
        whole = (size_bytes[-1] - size_bytes[0]) / (rate * (times_s[-1] - times_s[0]))
        links.append(LinkCount(source, target, size_bytes[-1], whole, shares))
    carried = [sum(sizes) for sizes in zip(*course.values(), strict=True)]
    share = min(1.0, _busy_cores(times_s, busy_s, carried) / cores)
    return LinkCounts(tuple(time_s - times_s[0] for time_s in times_s), tuple(links), share)


def _busy_cores(times_s: Sequence[float], busy_s: Sequence[float], carried: Sequence[int]) -> float:
    """Give how many cores were busy on average while links carried something.

    That is between two readings whenever the rate of all links is above a hundredth of the largest.
    """
    periods = [b - a for a, b in pairwise(times_s)]
    rates = [(b - a) / period if period > 0 else 0.0 for (a, b), period in zip(pairwise(carried), periods, strict=True)]
    working = [rate > max(rates) / 100 for rate in rates]
    elapsed_s = sum(compress(periods, working))
    return sum(compress((b - a for a, b in pairwise(busy_s)), working)) / elapsed_s if elapsed_s else 0.0


def contents(
    scenario: Scenario, profile: Profile | None, prediction: Prediction | None, measurement: Measurement | None
) -> Contents:
    """Put together what a report shows; with a prediction and a measurement, compare them."""
    plan = scenario.plan
    comparison = (
        compare(
            prediction.timeline,
            measurement.timeline,
            tolerance=plan.run.tolerance,
            of_wrappers=plan.run.engine == "native",
            core_speed=core_speed(profile, measurement.timeline),
        )
        if prediction and measurement
        else None
    )
    return Contents(
        scenario=scenario.name,
        question=plan.question,
        ranks=plan.ranks,
        tolerance=plan.run.tolerance,
        plan_yaml=plan_yaml(plan),
        prediction=prediction,
        measurement=measurement,
        comparison=comparison,
        assumptions=_inputs(scenario, profile, prediction) if prediction else (),
        topology_figure=None,
        pipeline=representative_pipeline(plan),
        cautions=(
            *(of_the_machine(comparison, measurement.other_load_cores) if comparison and measurement else ()),
            *cautions(scenario, profile),
            *(of_the_beginning(prediction.timeline) if prediction else ()),
        ),
    )


def _inputs(scenario: Scenario, profile: Profile | None, prediction: Prediction) -> tuple[Assumption, ...]:
    """List what a prediction rests on, and the deaths, of which one may come too late to matter."""
    deaths = (
        Assumption(
            f"death of rank {death.rank}",
            f"at {format_duration(death.at)}",
            "plan",
            "run.deaths" if death.rank in prediction.timeline.lost else "NEVER: the rank was done before",
        )
        for death in scenario.plan.run.deaths
    )
    return (*assumptions(scenario, profile, prediction.algorithms), *deaths)


def with_topology_figure(shown: Contents, scenario: Scenario) -> Contents:
    """Add the picture of the topology, for a report that is drawn."""
    from twinstep.report.topology_view import topology_figure

    links = shown.prediction.communication.links if shown.prediction else ()
    utilisation = {(link.source, link.target): link.utilisation for link in links}
    return replace(shown, topology_figure=topology_figure(scenario.topology, utilisation))


def calibrate(out: Path, progress: Progress) -> Profile:
    """Measure this machine and write its profile to `out`."""
    from twinstep.exec.measure import calibrate as execute

    make_folder(out.parent)
    profile = execute(progress)
    write_atomically(out, to_json(profile))
    return profile


def needs_profile(scenario: Scenario) -> bool:
    """Tell whether anything of a prediction must have been measured on some machine."""
    if scenario.plan.is_on_emulated_cluster:
        return True
    on_gloo = scenario.plan.library_on(scenario.device_specs[0]) == "gloo"
    communicates = scenario.plan.ranks > 1 and scenario.plan.sync.method != "shared_memory"
    communicates_on_host = on_gloo and communicates and len(scenario.hosts) == 1
    computes = not isinstance(scenario.plan.workload, CollectiveBench)
    return communicates_on_host or (computes and any(isinstance(spec, str) for spec in scenario.device_specs))


def find_profile(scenario: Scenario, path: Path | None, progress: Progress) -> Profile | None:
    """Give the profile to predict with: the given one, else this machine's, which is measured where there is none."""
    if path is not None:
        return read_profile(path)
    if not needs_profile(scenario):
        return None
    known = cached_profile()
    if known is None:
        print("There is no profile of this machine yet: measuring it, which takes five minutes.", file=sys.stderr)
        return calibrate(cached_path(), progress)
    if scenario.plan.is_on_emulated_cluster and known.emulation is None:
        from twinstep.exec.measure import with_emulation

        print("The profile of this machine has no emulated clusters: measuring two hosts of one.", file=sys.stderr)
        known = with_emulation(known, progress)
        write_atomically(cached_path(), to_json(known))
    return known
