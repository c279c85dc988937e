"""Memory: whether a plan fits its devices, which change would make it fit, and what a rank holds over time.

Where a topology's devices state their `memory`, a plan whose predicted peak on some rank is more is refused. The
message names the first of these single changes that makes every rank fit. They are tried in the order of what they
cost, each for larger and larger degrees:

| change | what it costs |
|---|---|
| share the optimizer's state among data-parallel ranks | no more bytes |
| share gradients, too, if there is one microbatch or a pipeline | no more bytes: parameters are gathered once a step |
| more microbatches | shorter kernels |
| share gradients, too, with m microbatches and no pipeline | (m + 1) / 2 times as many bytes: a gather in each |
| compute attention's core again | its forward pass, a few percent |
| share the parameters, too | half as many bytes again, up to twice as many with microbatches; none in a pipeline |
| compute whole blocks again | a forward pass, a third more |
| more tensor-parallel ranks, fewer data-parallel ones | sums in every layer |
| more stages, fewer data-parallel ranks | a larger bubble |
| the optimizer's state on the host, where the topology states processors | copies, and an update at the host's speed |

What a rank needs is its predicted peak, and an allowance for what its device's allocator reserves and cannot use,
where the device states such a `fragmentation` f: of a peak of P bytes, P f / (1 - f), so that P is 1 - f of both.

Sources of the costs: Rajbhandari et al., "ZeRO", 2020, section 7; Korthikanti et al., "Reducing activation
recomputation in large transformer models", 2022; Narayanan et al., "Efficient large-scale language model training on
GPU clusters", 2021.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from twinstep.effects import Compute, Wait
from twinstep.errors import InputError
from twinstep.host_memory import can_offload, check_host_memory
from twinstep.memory_use import MemoryUse
from twinstep.plan import Plan
from twinstep.programs import DataParallel, Hybrid, Strategy, lower
from twinstep.scenario import Scenario
from twinstep.timeline import Timeline
from twinstep.topologies import DeviceRates, Topology
from twinstep.units import format_size

_MOST_TIMES = 1024
"""How many times as many microbatches, tensor-parallel ranks or stages are tried."""


class Excess(NamedTuple):
    """A rank that holds more than its device."""

    rank: int
    parts: Mapping[str, int]
    memory_bytes: int


class Remedy(NamedTuple):
    """A change that makes a plan fit."""

    changes: Mapping[str, Any]
    """Of keys of the partition."""
    peak_bytes: int
    """Of the fullest rank, then."""
    needless: tuple[str, ...] = ()
    """Keys of the plan that would do nothing then, and must be left out."""

    @property
    def words(self) -> str:
        """Say what to set."""
        settings = " and ".join(f"partition.{key} to {value}" for key, value in self.changes.items())
        without = "".join(f" and leave out {key}" for key in self.needless)
        return f"set {settings}{without}: then its fullest rank needs {format_size(self.peak_bytes)}"


def check_memory(scenario: Scenario) -> None:
    """Raise InputError where a rank needs more memory than its device, or a host than it has, with what helps."""
    excess = next(_excesses(scenario.plan, scenario.topology), None)
    if excess is None:
        check_host_memory(scenario)
        return
    total = excess.parts["total"]
    sizes = ((name, size) for name, size in excess.parts.items() if size and name != "total")
    parts = (f"{name.replace('_', ' ')} {format_size(size)}" for name, size in sizes)
    remedy = smallest_change(scenario.plan, scenario.topology)
    otherwise = "no single change of the partition makes it fit: cut the model further, or give devices more memory"
    raise InputError(
        f"rank {excess.rank} would need {format_size(total)} at its peak ({', '.join(parts)}), and its device has "
        f"{format_size(excess.memory_bytes)}",
        remedy=remedy.words if remedy else otherwise,
        place=scenario.name,
    )


def smallest_change(plan: Plan, topology: Topology) -> Remedy | None:
    """Give the change that costs the least of those that make a plan fit; None where none does."""
    for changes in _changes(plan):
        changed = _changed(plan, changes)
        if changed is None or max(changed.devices) >= len(topology.devices):
            continue
        if can_offload(changed, topology) and next(_excesses(changed, topology), None) is None:
            return Remedy(changes, _peak_bytes(changed, topology), _needless(plan, changed))
    return None


def peak_parts(programs: Strategy, topology: Topology, rank: int) -> dict[str, int]:
    """Give the bytes that a rank needs at its peak by part, its device's allowance for fragmentation among them."""
    parts = programs.memory_bytes(rank)
    spec = topology.device_profiles[programs.plan.devices[rank]]
    share = spec.fragmentation if isinstance(spec, DeviceRates) else 0.0
    allowance = math.ceil(parts["total"] * share / (1 - share))
    total = parts.pop("total") + allowance
    return parts | {"fragmentation_allowance": allowance, "total": total}


def predicted_use(programs: Strategy, parts: Mapping[str, int]) -> MemoryUse:
    """Sum up what a rank holds at its peak: where it keeps all gradients, each is as large as its parameter."""
    keeps_all = isinstance(programs, DataParallel | Hybrid) and programs.plan.partition.offload == "none"
    gradients = "parameters" if keeps_all else "gradients"
    allowance = parts["fragmentation_allowance"]
    return MemoryUse(
        parameters=parts.get("parameters", 0),
        gradients=parts.get(gradients, 0),
        optimizer_state=parts.get("optimizer_state", 0),
        peak=parts["total"] - allowance,
        fragmentation=allowance,
    )


def memory_over_time(programs: Hybrid, timeline: Timeline, rank: int) -> list[tuple[float, dict[str, int]]]:
    """Give what a rank holds in the timeline's representative step: times in s, and bytes by part from each on.

    `timeline` has spans of the rank, or of its twin. Its times are on the timeline's axis.
    """
    twin = next((twins.representative for twins in timeline.folds if rank in twins.ranks), rank)
    step = timeline.representative_step()
    times: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
    for span in timeline.spans:
        if span.rank == twin and span.step == step:
            times[span.operation].append((span.start_s, span.end_s))
    course: list[tuple[float, dict[str, int]]] = []
    for entry in programs.ledger(rank):
        effect = entry.effect
        if not times[effect.operation]:
            continue
        start_s, end_s = times[effect.operation].popleft()
        if isinstance(effect, Compute):
            course.append((start_s, entry.during.parts()))
        course.append((end_s if isinstance(effect, Compute | Wait) else start_s, entry.after.parts()))
    return sorted(course, key=lambda moment: moment[0])


def _excesses(plan: Plan, topology: Topology) -> Iterator[Excess]:
    """Find ranks that hold too much; of ranks that do the same, one is looked at."""
    programs = lower(plan)
    seen: set[tuple[Hashable, DeviceRates]] = set()
    for rank, index in enumerate(plan.devices):
        spec = topology.device_profiles[index]
        if not isinstance(spec, DeviceRates) or spec.memory is None:
            continue
        key = (programs.key(rank), spec)
        if key not in seen:
            seen.add(key)
            parts = peak_parts(programs, topology, rank)
            if parts["total"] > spec.memory:
                yield Excess(rank, parts, spec.memory)


def _peak_bytes(plan: Plan, topology: Topology) -> int:
    programs = lower(plan)
    one_each = {(programs.key(rank), topology.device_profiles[plan.devices[rank]]): rank for rank in range(plan.ranks)}
    return max(peak_parts(programs, topology, rank)["total"] for rank in one_each.values())


def _changes(plan: Plan) -> Iterator[dict[str, Any]]:
    """List changes of the partition in the order of what they cost."""
    partition = plan.partition
    shardings = ["none", "optimizer", "gradients", "parameters"]
    more = shardings[shardings.index(partition.sharding) + 1 :]
    recomputes = ["none", "selective", "full"]
    again = recomputes[recomputes.index(partition.recompute) + 1 :]
    gathers_once = partition.microbatches == 1 or partition.keeps_units
    yield from ({"sharding": sharding} for sharding in more if sharding == "optimizer")
    yield from ({"sharding": sharding} for sharding in more if sharding == "gradients" and gathers_once)
    yield from ({"microbatches": partition.microbatches * times} for times in _times())
    yield from ({"sharding": sharding} for sharding in more if sharding == "gradients" and not gathers_once)
    yield from ({"recompute": each} for each in again if each == "selective")
    yield from ({"sharding": sharding} for sharding in more if sharding == "parameters")
    yield from ({"recompute": each} for each in again if each == "full")
    for name in ("tensor", "pipeline"):
        for times in _times():
            if partition.data % times == 0:
                yield {name: getattr(partition, name) * times, "data": partition.data // times}
    if partition.offload == "none":
        yield {"offload": "optimizer"}


def _times() -> Iterator[int]:
    times = 2
    while times <= _MOST_TIMES:
        yield times
        times *= 2


def _changed(plan: Plan, changes: Mapping[str, Any]) -> Plan | None:
    """Change a partition, and leave out what does nothing then; None where the plan would not be valid."""
    content = plan.model_dump(mode="json", exclude_none=True)
    content["partition"] |= changes
    if plan.partition.model_copy(update=changes).shards_gradients:
        del content["sync"]["bucket"]
    try:
        return Plan.model_validate(content)
    except ValidationError:
        return None


def _needless(plan: Plan, changed: Plan) -> tuple[str, ...]:
    return ("sync.bucket",) if changed.sync.bucket != plan.sync.bucket else ()
