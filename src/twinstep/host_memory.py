"""Host memory: whether hosts have room for what their ranks offload to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from twinstep.errors import InputError
from twinstep.plan import Plan
from twinstep.programs import Hybrid, lower
from twinstep.scenario import Scenario
from twinstep.topologies import Topology
from twinstep.units import format_size


class HostNeed(NamedTuple):
    """What a host holds for its ranks."""

    host: str
    ranks: int
    parts: Mapping[str, int]
    """Bytes by part, with their `total`."""
    memory_bytes: int
    """What it has."""

    @property
    def fits(self) -> bool:
        """Tell whether it has room."""
        return self.parts["total"] <= self.memory_bytes

    @property
    def title(self) -> str:
        """Say whose it is."""
        return f"memory of {self.host} for {'its rank' if self.ranks == 1 else f'its {self.ranks} ranks'}"

    @property
    def words(self) -> str:
        """List the parts."""
        sizes = ((part, size) for part, size in self.parts.items() if part != "total")
        return ", ".join(f"{part.replace('_', ' ')} {format_size(size)}" for part, size in sizes)


def host_needs(plan: Plan, topology: Topology) -> Iterator[HostNeed]:
    """Give what each host that ranks offload to holds; of hosts that do the same, the first."""
    programs = lower(plan)
    if plan.partition.offload == "none" or not isinstance(programs, Hybrid):
        return
    first_of = {programs.key(rank): rank for rank in reversed(range(plan.ranks))}
    by_key = {key: programs.host_memory_bytes(rank) for key, rank in first_of.items()}
    keys: dict[str, Counter[Hashable]] = {}
    for rank, index in enumerate(plan.devices):
        keys.setdefault(topology.device_hosts[index], Counter())[programs.key(rank)] += 1
    seen = set()
    for host, counts in keys.items():
        memory_bytes = topology.processors[host].memory or 0
        if (found := (frozenset(counts.items()), memory_bytes)) not in seen:
            seen.add(found)
            parts: Counter[str] = Counter()
            for key, count in counts.items():
                parts.update({part: count * size_bytes for part, size_bytes in by_key[key].items()})
            yield HostNeed(host, counts.total(), parts, memory_bytes)


def can_offload(plan: Plan, topology: Topology) -> bool:
    """Tell whether all hosts of a plan's ranks have room; True where nothing is offloaded."""
    if plan.partition.offload == "none":
        return True
    hosts = {topology.device_hosts[index] for index in plan.devices}
    described = all(host in topology.processors and topology.processors[host].memory for host in hosts)
    return described and all(need.fits for need in host_needs(plan, topology))


def check_host_memory(scenario: Scenario) -> None:
    """Raise InputError where a host's ranks offload more to it than its memory holds."""
    for need in host_needs(scenario.plan, scenario.topology):
        if not need.fits:
            raise InputError(
                f"host {need.host!r} would need {format_size(need.parts['total'])} for what its {need.ranks} "
                f"{'rank offloads' if need.ranks == 1 else 'ranks offload'} ({need.words}), and its processor's "
                f"memory is {format_size(need.memory_bytes)}",
                remedy="set partition.sharding, so that data-parallel ranks share the state; put fewer ranks on a "
                "host; or give the processor more memory",
                place=scenario.name,
            )
