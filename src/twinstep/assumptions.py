"""What a prediction rests on, each with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinstep.check import compressed_words
from twinstep.costs import device_costs
from twinstep.effects import Collective, Compute, Effect, Transfer
from twinstep.kernels import Kernel
from twinstep.profile import CollectiveTable, Profile
from twinstep.programs import DataParallel, ParameterServer, Strategy, first_steps, lower
from twinstep.report.contents import Assumption
from twinstep.scenario import Scenario
from twinstep.topologies import DeviceRates, DeviceSpec
from twinstep.units import format_duration, format_rate, format_size

_SHOWN = 6
_ON_EMULATED = "gloo's algorithm over the topology's links, with TCP's headers and acknowledgements"
_NOTES = {
    "gloo": "gloo's algorithm over the topology's links, with TCP's headers; its software's time is not modelled",
    "nccl": "by NCCL's own tuning constants, over the topology's links",
    "ideal": "the fastest algorithm over the topology's links, without any cost of software",
}


def assumptions(scenario: Scenario, profile: Profile | None, algorithms: Mapping[str, str]) -> tuple[Assumption, ...]:
    """List what a prediction rests on; `algorithms` say how each kind of communication goes about it."""
    programs = lower(scenario.plan)
    effects = first_steps(programs.outline.program(0), programs.period)
    sizes = {kind: groups.size for kind, groups in programs.groups.items()}
    devices = [found for spec in scenario.device_specs for found in _device(spec, effects, profile)]
    found = [*_profile(profile), *devices, *_communication(scenario, profile, effects, sizes, algorithms)]
    found += _emulation(scenario, profile, algorithms)
    if scenario.plan.sync.method == "shared_memory":
        note = "what it costs a core to read what another one has just written is not modelled"
        found.append(Assumption("shared parameters", "read and updated as a rank's own are", "assumed", note))
    found += _compression(programs)
    found += _offload(scenario)
    found += [
        Assumption(f"rank {s.rank}", f"{s.slowdown:g} times as slow", "plan", "run.stragglers")
        for s in scenario.plan.run.stragglers
    ]
    return tuple(found)


def _offload(scenario: Scenario) -> list[Assumption]:
    """Say what copies between devices and hosts and the update there rest on."""
    plan, topology = scenario.plan, scenario.topology
    if plan.partition.offload == "none":
        return []
    found = []
    for processor in dict.fromkeys(topology.processors[host] for host in scenario.hosts):
        value = f"{format_rate(processor.peak, 'FLOP/s')}, {format_rate(processor.memory_bandwidth, 'B/s')}"
        note = "roofline from the topology's rates, shared equally by ranks of a host that update at the same time"
        found.append(Assumption("processor of a host", value, "plan", note))
    ends = ((topology.devices[index], topology.device_hosts[index]) for index in plan.devices)
    for bandwidth in dict.fromkeys(topology.graph.edges[each]["bandwidth_bytes_per_s"] for each in ends):
        note = "of the topology's link; one copy at a time each way, without any cost of software"
        found.append(Assumption("copies between device and host", format_rate(bandwidth, "B/s"), "plan", note))
    return found


def _compression(programs: Strategy) -> list[Assumption]:
    """Say what is sent of the gradients."""
    compression = programs.plan.sync.compression
    if compression.kind == "none" or not isinstance(programs, DataParallel | ParameterServer):
        return []
    found = [Assumption("compression of gradients", compression.words, "plan", compressed_words(programs))]
    if compression.kind in ("fp16", "bf16") and isinstance(programs, DataParallel):
        note = "as fast as a sum of as many bytes of float32"
        found.append(Assumption("sums of 16-bit numbers", note, "assumed", "known of float32 alone"))
    return found


def _profile(profile: Profile | None) -> list[Assumption]:
    if profile is None:
        return []
    age = f"{profile.age_days:.1f} days old" if profile.age_days >= 0.1 else "measured within the last hours"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(profile.versions.items()))
    overheads = profile.overheads
    dispatch = ", ".join(format_duration(s) for s in (overheads.compute_s, overheads.launch_s, overheads.wait_s))
    return [
        Assumption("machine profile", profile.title, "calibrated", f"{age}; {versions}"),
        Assumption("other load during calibration", f"{profile.other_load_cores:.1f} cores", "measured"),
        Assumption("host cost of a compute, a collective, a wait", dispatch, "calibrated", "CPU time"),
    ]


def _emulation(scenario: Scenario, profile: Profile | None, algorithms: Mapping[str, str]) -> list[Assumption]:
    """Say what an emulated cluster adds, and what of the plan it leaves out."""
    costs = profile.emulation if profile else None
    if costs is None or not scenario.plan.is_on_emulated_cluster:
        return []
    step = f"{format_duration(costs.step_s)}, {format_duration(costs.step_cpu_s)} of a core"
    per_byte = f"{1e9 * costs.byte_cpu_s:.3g} ns a byte, {format_duration(costs.piece_cpu_s)} a piece and link"
    found = [
        Assumption("a step of a ring", step, "calibrated", "between two emulated hosts"),
        Assumption(
            "two collectives in opposite directions around a ring",
            f"{100 * costs.opposed_rate:.0f} % of their rate",
            "calibrated",
            "among four emulated hosts",
        ),
        Assumption("time of the machine's cores", per_byte, "calibrated", "all emulated hosts share them"),
        Assumption("congestion control", costs.congestion, "measured", "of the ranks' connections"),
    ]
    if not costs.delays_links:
        note = "the kernel has no netem: links have no latency of their own, in both runs"
        found.append(Assumption("latency of links", "not emulated", "measured", note))
    if any(name.startswith("all_to_all ") for name in algorithms):
        note = "gloo takes as little as half as long where ranks call at the same moment"
        found.append(Assumption("calls of all_to_all", "one after another", "assumed", note))
    return found


def _device(spec: DeviceSpec, effects: Sequence[Effect], profile: Profile | None) -> list[Assumption]:
    if isinstance(spec, DeviceRates):
        value = f"{format_rate(spec.peak, 'FLOP/s')}, {format_rate(spec.memory_bandwidth, 'B/s')}"
        return [Assumption("device", value, "plan", "roofline from the topology's rates")]
    if profile is None or spec not in profile.devices:
        return []
    curves = profile.devices[spec]
    value = f"{format_rate(curves.peak_flops_per_s, 'FLOP/s')}, {format_rate(curves.bandwidth_bytes_per_s, 'B/s')}"
    costs = device_costs(spec, profile, busy_cores=1)
    kernels = dict.fromkeys(kernel for effect in effects if isinstance(effect, Compute) for kernel in effect.kernels)
    unknown = [kernel for kernel in kernels if kernel.name not in curves.kernels]
    outside = [kernel for kernel in kernels if kernel not in unknown and costs.is_extrapolated(kernel)]
    note = "one thread a rank; every kernel within the calibrated shapes" if not outside else _outside(outside)
    found = [Assumption(f"device {spec}", value, "calibrated", note)]
    if unknown:
        names = ", ".join(dict.fromkeys(kernel.name for kernel in unknown))
        note = "by the roofline alone: the profile does not have them; run `twinstep calibrate`"
        found.append(Assumption("kernels that were not measured", names, "assumed", note))
    return found


def _outside(kernels: list[Kernel]) -> str:
    names = ", ".join(f"{k.name}{k.shape}" for k in kernels[:_SHOWN])
    more = f" and {len(kernels) - _SHOWN} more" if len(kernels) > _SHOWN else ""
    return f"EXTRAPOLATED beyond the calibrated shapes: {names}{more}"


def _communication(
    scenario: Scenario,
    profile: Profile | None,
    effects: Sequence[Effect],
    group_sizes: Mapping[str, int],
    algorithms: Mapping[str, str],
) -> list[Assumption]:
    """Say how each kind of communication, `<kind> in group <group>`, goes about it, and what is known of that."""
    found = []
    library = scenario.plan.library_on(scenario.device_specs[0])
    emulated = scenario.plan.is_on_emulated_cluster and library == "gloo"
    note_of_library = _ON_EMULATED if emulated else _NOTES[library]
    for name, algorithm in algorithms.items():
        if algorithm == "measured" and profile is not None:
            kind, group = name.split(" ")[0], name.split(" ")[-1]
            alike = [each for each in effects if isinstance(each, Collective | Transfer) and each.kind == kind]
            sizes = [effect.size_bytes for effect in alike]
            ranks = 2 if kind == "send" else group_sizes[group]
            note = _coverage(profile.collectives["gloo"][kind], ranks, sizes)
            found.append(Assumption(name, "gloo on loopback", "calibrated", note))
        else:
            found.append(Assumption(name, algorithm, "assumed", note_of_library))
    return found


def _coverage(table: CollectiveTable, ranks: int, sizes_bytes: list[int]) -> str:
    """Say what the table covers, and what of the plan it does not."""
    low, high, shared_high = table.sizes_bytes[0], table.sizes_bytes[-1], table.shared_sizes_bytes[-1]
    covered = (
        f"{table.ranks[0]} to {table.ranks[-1]} ranks, {format_size(low)} to {format_size(high)}, "
        f"sharing cores to {format_size(shared_high)}"
    )
    beyond = [format_size(size) for size in sizes_bytes if not low <= size <= min(high, shared_high)]
    if not table.ranks[0] <= ranks <= table.ranks[-1]:
        beyond.append(f"{ranks} ranks")
    return f"measured for {covered}" + (f"; EXTRAPOLATED to {', '.join(beyond)}" if beyond else "")
