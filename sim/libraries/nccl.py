"""NCCL, by its own tuning model.

NCCL predicts the time of every algorithm with every protocol and takes the least; so does this, with the bytes on the
topology's links in place of NCCL's estimate of them. The constants are NCCL's (src/graph/tuning.cc of 2.28 and later):

- *Protocols.* LL sends a flag with every 4 bytes: half of the bandwidth, and never more than `_LL_MOST`. LL128 sends
  120 bytes of 128, and NCCL counts on 0.92. Simple has no flags and the largest latency.
- *Latencies.* A base for each algorithm and protocol, and for each step one for NVLink, PCIe or network. Where the
  latencies of the topology's links add up to more, they count. A buffer has 8 slots, so pipelines send on while what
  they sent is under way, and as in NCCL's model it takes no time to fill them.
- *Rings* run over as many channels as a host has devices, each leaving the hosts by another one.
- *Trees* are double binary trees over hosts with chains within; their bandwidth is multiplied by 0.92 and by a
  correction for each size, which NCCL's authors have measured.
- *NVLS* reduces in the NVSwitch of one host: every GPU sends and receives S (1 + 1/n), at 0.85 of the link.

Devices count as joined by NVLink where a link of the first one carries over 70 GB/s, and as Hopper (which has NVLS)
from 320 GB/s. Bus bandwidths that this gives, and published ones, are in docs/physics.md. Not modelled: PAT, CollNet,
NVLS across hosts; the channels that NCCL's search finds on an unusual topology, and limits of each channel but those of
LL and of trees; fewer channels for small messages; LL128 with one device a host; what hosts add to steps of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import Literal, NamedTuple

from twinstep.sim.algorithms import Phases, Request, channels, direct, in_network, send, trees_of_channels
from twinstep.sim.libraries.offer import HostTime, Offer

_US = 1e-6
_NVLINK_BYTES_PER_S = 70e9
_HOPPER_BYTES_PER_S = 320e9
"""Between A100's 300 GB/s and the 370 that NCCL counts on for H100."""

Protocol = Literal["LL", "LL128", "Simple"]
PROTOCOLS: tuple[Protocol, ...] = ("LL", "LL128", "Simple")


class _Latency(NamedTuple):
    """Microseconds, by protocol."""

    LL: float
    LL128: float
    Simple: float


_BASE = {"ring": _Latency(6.6, 14.0, 8.4), "tree": _Latency(6.8, 14.0, 8.4)}
_STEP = {
    ("ring", "nvlink"): _Latency(0.6, 1.9, 3.4),
    ("ring", "pci"): _Latency(1.0, 2.5, 5.7),
    ("ring", "net"): _Latency(2.7, 4.0, 14.0),
    ("tree", "nvlink"): _Latency(0.6, 1.25, 4.0),
    ("tree", "pci"): _Latency(1.0, 1.9, 4.0),
    ("tree", "net"): _Latency(5.0, 8.5, 14.0),
}
_NVLS_STEP_US = 25.0
_NVLS_EFFICIENCY = 0.85
_LL_MOST = {"ampere": (87.7e9, 22.5e9, 19e9), "hopper": (141e9, 45e9, 35e9)}
"""Bytes a second of all channels together, on one host, on two, on more."""
_TREE_MOST = {"ampere": (24.0e9, 23.6e9, 17.8e9), "hopper": (38.7e9, 41.4e9, 36.0e9)}
"""Bytes a second of each channel of a tree, on one host, on two, on more; a channel carries the buffer up and down."""
_RING_EFFICIENCY = {"LL": 1 / 2, "LL128": 0.92, "Simple": 1.0}
_TREE_EFFICIENCY = {"LL": 0.92 / 3.8, "LL128": 0.92 * 120 / 128, "Simple": 0.92}
_TREE_LL128_ON_ONE_HOST = 0.92 * 7 / 9
_TREE_CORRECTION = {
    "LL": (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1),
    "LL128": (1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1),
    "Simple": (
        *(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5),
        *(0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9),
    ),
}
"""By the logarithm to base 2 of the size over 64 bytes."""


@dataclass(frozen=True, slots=True)
class Nccl:
    """NCCL among devices whose fastest link carries `device_link_bytes_per_s`."""

    device_link_bytes_per_s: float
    slots: int = 1
    """Collectives of a communicator run one after another."""
    reduces_in_network: bool = False
    """But for NVLS, which is among its own offers."""
    has_streams: bool = False

    def on_host(self, request: Request) -> HostTime | None:
        """Nothing was measured."""
        return None

    def offers(self, request: Request) -> Sequence[Offer]:
        """List each algorithm with each protocol, as NCCL considers them."""
        if request.kind == "barrier":
            request = Request("all_reduce", request.ranks, 4, request.per_host)
        if request.kind == "send":
            return [self.run("send", send(request), request)]
        if request.kind in ("all_to_all", "gather", "scatter"):
            return [self.run("direct", direct(request) or (), request)]
        found = [self._ring(request, protocol) for protocol in self._protocols()]
        if request.kind == "all_reduce":
            found += [self._tree(request, protocol) for protocol in self._protocols()]
            if self._has_nvls(request):
                found.append(self._nvls(request))
        return found

    def run(self, algorithm: str, phases: Phases, request: Request) -> Offer:
        """Charge a step of each phase as one of a ring with the Simple protocol: NCCL has no model for these.

        Where the ranks are on several hosts every step may cross the network, and is charged as one that does.
        """
        steps = sum(phase.steps for phase in phases)
        fabric = self._fabric() if request.per_host == request.ranks else "net"
        least_s = (_BASE["ring"].Simple + steps * _STEP["ring", fabric].Simple) * _US
        return Offer(algorithm, phases, least_latency_s=least_s)

    def _fabric(self) -> str:
        return "nvlink" if self.device_link_bytes_per_s > _NVLINK_BYTES_PER_S else "pci"

    def _protocols(self) -> Sequence[Protocol]:
        """LL128 needs NVLink."""
        return PROTOCOLS if self._fabric() == "nvlink" else ("LL", "Simple")

    def _has_nvls(self, request: Request) -> bool:
        return self.device_link_bytes_per_s >= _HOPPER_BYTES_PER_S and request.per_host == request.ranks > 1

    def _ring(self, request: Request, protocol: Protocol) -> Offer:
        phases = channels(request) or ()
        hosts = request.ranks // request.per_host
        rounds = 2 if request.kind == "all_reduce" else 1
        steps = rounds * (request.ranks - 1)
        across = rounds * (hosts - 1)
        latency_us = getattr(_BASE["ring"], protocol) + self._steps_us("ring", protocol, steps - across, across)
        return Offer(
            f"ring {protocol}",
            phases,
            least_latency_s=latency_us * _US,
            efficiency=_RING_EFFICIENCY[protocol],
            keeps_many_under_way=True,
            flow_cap_bytes_per_s=self._cap(request, protocol),
        )

    def _tree(self, request: Request, protocol: Protocol) -> Offer:
        hosts = request.ranks // request.per_host
        efficiency = _TREE_EFFICIENCY[protocol]
        if protocol == "LL128" and hosts == 1:
            efficiency = _TREE_LL128_ON_ONE_HOST
        scale = max(0, floor(log2(max(request.size_bytes, 64) / 64)))
        correction = _TREE_CORRECTION[protocol]
        within, across = 2 * (request.per_host - 1), 2 * floor(log2(hosts))
        latency_us = getattr(_BASE["tree"], protocol) + self._steps_us("tree", protocol, within, across)
        return Offer(
            f"tree {protocol}",
            trees_of_channels(request) or (),
            least_latency_s=latency_us * _US,
            efficiency=efficiency * (correction[scale] if scale < len(correction) else 1),
            keeps_many_under_way=True,
            flow_cap_bytes_per_s=min(self._cap(request, protocol), self._tree_cap(request)),
        )

    def _nvls(self, request: Request) -> Offer:
        phases = in_network(request) or ()
        efficiency = _NVLS_EFFICIENCY / (1 + 1 / request.ranks)
        return Offer("NVLS", phases, least_latency_s=_NVLS_STEP_US * _US, efficiency=efficiency)

    def _steps_us(self, algorithm: str, protocol: Protocol, within: int, across: int) -> float:
        inside: float = getattr(_STEP[algorithm, self._fabric()], protocol)
        outside: float = getattr(_STEP[algorithm, "net"], protocol)
        return within * inside + across * outside

    def _cap(self, request: Request, protocol: Protocol) -> float:
        """Limit a flow of LL, where all channels together have a limit."""
        if protocol != "LL":
            return float("inf")
        flows = request.per_host if _has_channels(request) else 1
        return self._by_hosts(_LL_MOST, request) / flows

    def _tree_cap(self, request: Request) -> float:
        """Limit a flow of a tree: each of its two halves goes up and down, so it has a quarter of its channel."""
        return self._by_hosts(_TREE_MOST, request) / 4 if _has_channels(request) else float("inf")

    def _by_hosts(self, table: Mapping[str, tuple[float, float, float]], request: Request) -> float:
        """Look a limit up by the generation of the devices and the number of hosts."""
        generation = "hopper" if self.device_link_bytes_per_s >= _HOPPER_BYTES_PER_S else "ampere"
        return table[generation][min(request.ranks // request.per_host, 3) - 1]


def _has_channels(request: Request) -> bool:
    """Tell whether there are as many channels as devices of a host; otherwise NCCL's search would have to tell."""
    return 1 < request.per_host < request.ranks
