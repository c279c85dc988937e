"""Gloo, as it was read and measured.

*Among ranks of one calibrated host* a collective takes what was measured there (`CollectiveTable`). Where two at once
take p times as long as one, each uses p/2 of the cores, so that together they get what was measured: rate 1/p. Where
one takes c times as long while every rank computes, since its threads must wait for their turns, its rate is 1/c
while computations fill the cores.

*Across hosts* gloo speaks TCP, and of all that it has ProcessGroupGloo uses one algorithm a collective:

| collective | algorithm | bytes that bound it, of S among n | over the optimum: measured, this model |
|---|---|---|---|
| all_reduce | ring, two segments in flight | 2 (n - 1)/n S | 1.045, 1.046 |
| reduce_scatter | an all-reduce of the whole input | 2 (n - 1)/n S | 2.19, 2.09 |
| all_gather | ring | (n - 1)/n S | 1.08, 1.046 |
| broadcast | binomial; a rank sends to all its children at once | 3 S among 4 | 2.87, 3.14 |
| reduce | ring reduce-scatter, then all send their share to the root | 2 (n - 1)/n S | 1.56, 1.57 |
| gather, scatter | everything at once | (n - 1)/n S | 1.05 and 1.03, 1.046 |
| all_to_all | everything at once | (n - 1)/n S | 1.54, 1.046 |
| send | one flow | S | 1.03, 1.046 |
| barrier | dissemination | none | |

measured with 4 hosts on a star of 400 Mbit/s and 8 MiB (docs/physics.md). 1.046 are headers: of 1514 bytes of a full
Ethernet frame 1448 are payload (MTU 1500, IPv4, TCP with time stamps). A broadcast's first child in fact gets
somewhat more than half of the root's link, and all-to-all's flows share several links badly: TCP is not as fair as
the fluid. Source of the algorithms: gloo's allreduce.cc, allgather.cc, broadcast.cc, reduce.cc, alltoall.cc,
gather.cc, scatter.cc, barrier.cc, and ProcessGroupGloo.cpp of torch 2.13. The software's own time for a step is known
on emulated clusters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from twinstep.costs import collective_time
from twinstep.profile import EmulationCosts, Profile
from twinstep.shaping import payload_share
from twinstep.sim.algorithms import ALGORITHMS, Pattern, Phase, Phases, Request, ring, send
from twinstep.sim.libraries.offer import HostTime, Offer

_COPIES = {"all_gather": 1.0, "reduce_scatter": 1.0}
"""Whole buffers that each rank copies into a fresh one: the flat output, the input that is summed in place."""


class Gloo:
    """Gloo over TCP, and as measured on one host."""

    slots = 2
    """Its worker threads, by default two (ProcessGroupGloo::Options)."""
    reduces_in_network = False

    def __init__(self, profile: Profile | None, mtu: int = 1500, emulation: EmulationCosts | None = None) -> None:
        self._tables = profile.collectives.get("gloo", {}) if profile else {}
        self._measured_cores = profile.machine.cores if profile else 0
        self._efficiency = payload_share(mtu)
        self._emulation = emulation

    @property
    def has_streams(self) -> bool:
        """Tell whether connections are modelled: on an emulated cluster."""
        return self._emulation is not None

    def on_host(self, request: Request) -> HostTime | None:
        """Look the collective up in what was measured."""
        if request.kind not in self._tables:
            return None
        table = self._tables[request.kind]
        elapsed_s, pairing, crowding = collective_time(table, request.ranks, int(request.size_bytes))
        return HostTime(elapsed_s, pairing / 2 * self._measured_cores, 1 / crowding)

    def offers(self, request: Request) -> Sequence[Offer]:
        """Give the one algorithm."""
        return [self.run(*_algorithm(request), request)]

    def run(self, algorithm: str, phases: Phases, request: Request) -> Offer:
        """Add the headers, and what the machine takes that emulates the hosts, where one does."""
        offer = Offer(algorithm, phases, efficiency=self._efficiency)
        costs = self._emulation
        if costs is None:
            return offer
        turns = max(1.0, request.ranks / self._measured_cores)
        copies = request.size_bytes * _COPIES.get(request.kind, 0.0) * turns
        return replace(
            offer,
            step_s=costs.step_s,
            step_core_s=costs.step_cpu_s,
            copied_s=copies * costs.copy_s_per_byte,
            hides_steps=algorithm == "ring" or request.kind in ("reduce", "reduce_scatter"),
        )


def _algorithm(request: Request) -> tuple[str, Phases]:
    special = {"send": send, "broadcast": _broadcast, "reduce": _reduce, "reduce_scatter": _reduce_scatter}
    if request.kind in special:
        return f"gloo's {request.kind}", special[request.kind](request)
    if request.kind == "all_reduce":
        return "ring", _backwards(request)
    name = {"all_gather": "ring", "barrier": "bruck"}.get(request.kind, "direct")
    return name, ALGORITHMS[name](request) or ()


def _backwards(request: Request) -> Phases:
    """Go around the ring in gloo's direction: each rank sends to the one before it."""
    pattern = Pattern("shift", request.ranks, request.ranks - 1)
    return tuple(replace(phase, pattern=pattern) for phase in ring(request) or ())


def _reduce_scatter(request: Request) -> Phases:
    return _backwards(request.of_kind("all_reduce"))


def _reduce(request: Request) -> Phases:
    scattered = _backwards(request.of_kind("reduce_scatter"))
    return (*scattered, Phase(Pattern("to_root", request.ranks), request.share_bytes))


def _broadcast(request: Request) -> Phases:
    """Pass the buffer down a binomial tree, one depth after another; a rank has its bits' number as depth."""
    depths = range(1, (request.ranks - 1).bit_length() + 1)
    phases = (Phase(Pattern("depth", request.ranks, depth), request.size_bytes) for depth in depths)
    return tuple(phase for phase in phases if len(phase.pattern.pairs()[0]))
