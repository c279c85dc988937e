"""What `twinstep check` says of a plan: ranks, groups, bytes, memory, and what cannot be executed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from twinstep.effects import Collective, Compute, Effect, HostCompute, HostCopy, Transfer
from twinstep.host_memory import host_needs
from twinstep.learning import SAMPLE_BYTES, Share
from twinstep.memory import peak_parts
from twinstep.plan import Plan
from twinstep.programs import (
    DataParallel,
    Groups,
    LocalSgd,
    ParameterServer,
    SharedMemory,
    Strategy,
    first_steps,
    lower,
    moved,
)
from twinstep.programs.mesh import HOST
from twinstep.programs.server_messages import NOTES, PARAMETERS
from twinstep.programs.touched import Touched
from twinstep.scenario import Scenario
from twinstep.timeline import SAMPLES_LANE
from twinstep.topologies import Topology
from twinstep.units import format_size
from twinstep.workloads import Gpt, data_rows


def plan_lines(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Give the plan's facts as names and values, in words."""
    plan, topology = scenario.plan, scenario.topology
    programs = lower(plan)
    if plan.question:
        yield "question", plan.question
    yield "ranks", f"{plan.ranks} on {len(topology.devices)} devices of {len(topology.hosts)} hosts"
    if isinstance(plan.workload, Gpt):
        yield "parameters", _parameters(plan.workload)
    yield from ((f"group {kind}", _groups(groups)) for kind, groups in programs.groups.items() if kind != HOST)
    if isinstance(programs, DataParallel | ParameterServer) and plan.sync.compression.kind != "none":
        yield "compression", f"{plan.sync.compression.words}: {compressed_words(programs)}"
    if isinstance(programs, DataParallel):
        yield "samples of a rank", _range([len(shard) for shard in programs.shards])
    if isinstance(programs, LocalSgd | ParameterServer | SharedMemory):
        yield "samples of a worker", _range([len(share) for share in programs.shares])
        yield from _repartition(plan, programs.shares)
    yield from _rank_lines(programs, topology, 0, "rank 0")
    if isinstance(programs, ParameterServer) and programs.touched is not None:
        yield "parameters that a batch touches", _touched(programs.touched)
    for need in host_needs(plan, topology):
        yield need.title, f"{format_size(need.parts['total'])}: {need.words}"
    for server in programs.reactive[:1]:
        yield from _rank_lines(programs, topology, server, f"server {server}")
    if plan.partition.keeps_units and plan.partition.shards_gradients:
        yield "sharding in the pipeline", "units are gathered once a step, and kept until its end"
    yield "steps", f"{plan.run.warmup} of warm-up, {plan.run.steps} measured, compute {plan.run.compute}"
    yield "execution", _execution(scenario)


def _parameters(workload: Gpt) -> str:
    """Count the parameters of the whole model, and those that one token meets."""
    active = f", of which a token meets {workload.active_parameter_count:,}" if workload.is_mixture else ""
    return f"{workload.parameter_count:,}{active}"


def _repartition(plan: Plan, shares: Sequence[Share]) -> Iterator[tuple[str, str]]:
    """Say what workers exchange before the first step."""
    if plan.partition.remedy == "repartition":
        count = moved(shares)
        size = format_size(SAMPLE_BYTES * count)
        yield "repartition", f"{count} of {data_rows(plan.training)} samples move, {SAMPLE_BYTES} B each: {size}"


def _touched(touched: Touched) -> str:
    """Say how many parameters the batches of all workers touch, step by step."""
    counts = touched.keys[:-1].sum(axis=2)
    found = f"{_range(counts.ravel().tolist())} of {touched.workload.features + 1}"
    return f"{found}; messages are given for the first step" if touched.sparse else found


def compressed_words(programs: DataParallel | ParameterServer) -> str:
    """Say how many bytes the buffers of a step hold, and of how many bytes of gradients."""
    sent = sum(each.size_bytes for each in programs.exchanges)
    gradients = sum(parameter.size_bytes for parameter in programs.model(0).parameters)
    return f"{format_size(sent)} in a rank's buffers a step, for {format_size(gradients)} of gradients"


def _groups(groups: Groups) -> str:
    if groups.size == 1:
        return "1 rank: nothing to communicate"
    return f"{groups.size} ranks" if len(groups.ranks) == 1 else f"{len(groups.ranks)} of {groups.size} ranks each"


def _rank_lines(programs: Strategy, topology: Topology, rank: int, name: str) -> Iterator[tuple[str, str]]:
    """Give the work, the communication and the memory of a rank."""
    effects = [*_in_a_step(programs, rank)]
    of_device = [effect for effect in effects if isinstance(effect, Compute) and not isinstance(effect, HostCompute)]
    work_flops = sum(effect.work_flops for effect in of_device) / programs.period
    yield f"work of {name}", f"{work_flops / 1e9:.4g} GFLOP a step"
    often = "a step" if programs.period == 1 else f"in {programs.period} steps"
    of = "" if rank == 0 else f" of {name}"
    sizes: dict[str, list[int]] = defaultdict(list)
    for effect in effects:
        if isinstance(effect, Collective):
            sizes[f"{effect.kind} in group {effect.group}"].append(effect.size_bytes)
        elif isinstance(effect, HostCopy):
            sizes[f"copies {effect.kind.replace('_', ' ')}"].append(effect.size_bytes)
        elif isinstance(effect, Transfer) and effect.lane != SAMPLES_LANE:
            lane, *_ = effect.lane.split(" of ")
            sizes[f"{effect.kind} {lane}"].append(effect.size_bytes)
    for kind, bytes_each in sizes.items():
        yield f"{kind}{of}, {often}", f"{len(bytes_each)}, {format_size(sum(bytes_each))}: {_sizes(bytes_each)} each"
    for part, size_bytes in peak_parts(programs, topology, rank).items():
        yield f"memory of {name}, {part.replace('_', ' ')}", format_size(size_bytes)


def _in_a_step(programs: Strategy, rank: int) -> Iterator[Effect]:
    """List what a rank does in a step while nobody dies; answers that wait for acknowledgements are part of it."""
    done = first_steps(programs.outline.program(rank), programs.period)
    for effect in done:
        if not isinstance(effect, Transfer) or effect.lane != NOTES:
            yield effect
    sent = {effect.lane for effect in done if isinstance(effect, Transfer) and effect.kind == "send"}
    if rank in programs.reactive and PARAMETERS not in sent:
        yield from (message for message in programs.later_messages(rank) if message.lane == PARAMETERS)


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _sizes(sizes_bytes: list[int]) -> str:
    low, high = format_size(min(sizes_bytes)), format_size(max(sizes_bytes))
    return low if low == high else f"{low} to {high}"


def _execution(scenario: Scenario) -> str:
    if scenario.plan.predicted_only:
        return f"predict only: {scenario.plan.predicted_only}"
    if scenario.plan.is_on_emulated_cluster:
        return f"predict, measure and compare on an emulated cluster of {len(scenario.topology.hosts)} hosts"
    if len(scenario.hosts) > 1:
        hosts = len(scenario.hosts)
        return (
            f"predict only as it stands: the plan spans {hosts} hosts; torchrun can run it on as many, and run.backend "
            "emulated on this machine"
        )
    return "predict, measure and compare on one machine"
