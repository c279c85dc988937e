"""What a collective costs in the library that will run it, as an activity on cores and links.

*Among ranks of one calibrated host* it takes what was measured there (`CollectiveTable`). Where two at once take p
times as long as one, each uses p/2 of the cores, so that together they get what was measured: rate 1 / p. Where one
takes c times as long while every rank computes, since its threads must wait for their turns, its rate is at most
1 / c while computations fill the cores.

*Across hosts* gloo's all-reduce is a ring: each rank sends 2 (n-1) messages of S/n bytes to its successor. It is
never faster than 2 (n-1) (a + S/(n B)), where a is the largest latency of a hop's path and B the least bandwidth on
it once all hops that share a link have their part. Each link carries 2 (n-1) S/n bytes for every hop that crosses it.
Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009. When it is
wrong: below a few KiB a step, where software rather than the network sets the pace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from twinstep.costs import collective_time
from twinstep.effects import Collective
from twinstep.profile import Profile
from twinstep.topologies import Topology


@dataclass(frozen=True, slots=True)
class CollectiveCost:
    """A collective as the fluid sees it."""

    elapsed_s: float
    """Seconds when nothing else is active."""
    weights: Mapping[Hashable, float]
    """What it needs of each resource to progress at rate 1."""
    crowded_rate: float | None = None
    """Its largest rate while computations fill the host's cores; None where no cores are needed."""


class Gloo:
    """Gloo: measured on one host, rings across hosts."""

    slots = 2
    """Collectives of a group under way at once: its worker threads, by default two (ProcessGroupGloo::Options)."""

    def __init__(self, topology: Topology, profile: Profile | None) -> None:
        self._topology = topology
        self._tables = profile.collectives.get("gloo", {}) if profile else {}
        self._measured_cores = profile.machine.cores if profile else 0
        self._costs: dict[tuple[Collective, tuple[int, ...]], CollectiveCost] = {}

    def cost(self, effect: Collective, ranks: tuple[int, ...]) -> CollectiveCost:
        """Give the cost of a collective of these ranks."""
        key = (effect, ranks)
        if key not in self._costs:
            self._costs[key] = self._measured(effect, ranks) or self._ring(effect, ranks)
        return self._costs[key]

    def _measured(self, effect: Collective, ranks: Sequence[int]) -> CollectiveCost | None:
        devices = [self._topology.devices[rank] for rank in ranks]
        hosts = dict.fromkeys(self._topology.host_of(device) for device in devices)
        if len(hosts) > 1 or effect.kind not in self._tables:
            return None
        elapsed_s, pairing, crowding = collective_time(self._tables[effect.kind], len(ranks), effect.size_bytes)
        return CollectiveCost(elapsed_s, {next(iter(hosts)): pairing / 2 * self._measured_cores}, 1 / crowding)

    def _ring(self, effect: Collective, ranks: Sequence[int]) -> CollectiveCost:
        devices = [self._topology.devices[rank] for rank in ranks]
        paths = [
            self._topology.path(device, successor)
            for device, successor in zip(devices, devices[1:] + devices[:1], strict=True)
        ]
        crossings = Counter(link for path in paths for link in path)
        messages = 2 * (len(ranks) - 1)
        hop_bytes = messages * effect.size_bytes / len(ranks)
        latency_s = messages * max(sum(link.latency_s for link in path) for path in paths)
        transfer_s = max(n * hop_bytes / link.bandwidth_bytes_per_s for link, n in crossings.items())
        elapsed_s = latency_s + transfer_s
        return CollectiveCost(elapsed_s, {link: n * hop_bytes / elapsed_s for link, n in crossings.items()})
