"""What `twinstep check` says of a plan: ranks, groups, bytes, memory, and what cannot be executed here."""

from __future__ import annotations

from collections.abc import Iterator

from twinstep.programs import DataParallel
from twinstep.scenario import Scenario
from twinstep.units import format_size


def plan_lines(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Give the plan's facts as names and values, in words."""
    plan, topology = scenario.plan, scenario.topology
    programs = DataParallel(plan)
    model = programs.model(0)
    if plan.question:
        yield "question", plan.question
    yield "ranks", f"{plan.ranks} on {len(topology.devices)} devices of {len(topology.hosts)} hosts"
    for name, ranks in programs.groups.items():
        yield f"group {name}", f"{len(ranks)} ranks" if len(ranks) > 1 else "1 rank: nothing to communicate"
    yield "samples of a rank", _range([len(shard) for shard in programs.shards])
    elements = sum(parameter.elements for parameter in model.parameters)
    yield "layers, parameters", f"{len(model.layers)}, {elements:,}"
    work_flops = sum(kernel.work_flops for layer in model.layers for kernel in (*layer.forward, *layer.backward))
    yield "work of a rank", f"{work_flops / 1e9:.4g} GFLOP a step, forward and backward"
    if plan.ranks > 1:
        sizes = [bucket.size_bytes for bucket in programs.buckets]
        yield "all-reduce of a step", f"{format_size(sum(sizes))} in {len(sizes)} buckets of {_sizes(sizes)}"
    for part, size_bytes in model.memory_bytes().items():
        yield f"memory, {part.replace('_', ' ')}", format_size(size_bytes)
    yield "steps", f"{plan.run.warmup} of warm-up, {plan.run.steps} measured, compute {plan.run.compute}"
    yield "execution", _execution(scenario)


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _sizes(sizes_bytes: list[int]) -> str:
    low, high = format_size(min(sizes_bytes)), format_size(max(sizes_bytes))
    return low if low == high else f"{low} to {high}"


def _execution(scenario: Scenario) -> str:
    if len(scenario.hosts) > 1:
        return (
            f"predict only on one machine: the plan spans {len(scenario.hosts)} hosts; torchrun can run it on as many"
        )
    return "predict, measure and compare on one machine"
