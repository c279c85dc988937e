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
| all_gather | ring; between two ranks in three turns (`_pair_gather`) | (n - 1)/n S | 1.08, 1.046 |
| broadcast | binomial; a rank sends to all its children at once | 3 S among 4 | 2.87, 3.14 |
| reduce | ring reduce-scatter, then all send their share to the root | 2 (n - 1)/n S | 1.56, 1.57 |
| gather, scatter | everything at once | (n - 1)/n S | 1.05 and 1.03, 1.046 |
| all_to_all | everything at once, in turns | (1 + floor(n/2)/(n - 1)) (n - 1)/n S | 1.54, 1.74 |
| send | one flow | S | 1.03, 1.046 |
| barrier | dissemination | none | |

measured with 4 hosts on a star of 400 Mbit/s and 8 MiB (docs/physics.md). 1.046 are headers: of 1514 bytes of a full
Ethernet frame 1448 are payload (MTU 1500, IPv4, TCP with time stamps).

A reduce of more than 2 MiB a rank goes around the ring nearly whole (`_reduce`). Of a broadcast's children the first is
a window ahead of the others, and collectives that go around the ring in opposite ways wait for each other's messages:
both are modelled on emulated clusters. All-to-all waits for receivers' notices (`_with_waits`). The software's
own time for a step is known on emulated clusters alone. Source of the algorithms: gloo's allreduce.cc, allgather.cc,
broadcast.cc, reduce.cc, alltoall.cc, gather.cc, scatter.cc, barrier.cc, and ProcessGroupGloo.cpp of torch 2.13.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from twinstep.costs import collective_time
from twinstep.profile import EmulationCosts, Profile
from twinstep.shaping import ACKNOWLEDGEMENT_BYTES, payload_share
from twinstep.sim.algorithms import ALGORITHMS, Pattern, Phase, Phases, Request, ring, send
from twinstep.sim.libraries.offer import HostTime, Offer

_COPIES = {"all_gather": 1.0, "reduce_scatter": 1.0}
"""Whole buffers that each rank copies into a fresh one: the flat output, the input that is summed in place."""
_IN_HALVES = ("all_reduce", "all_gather", "reduce_scatter", "reduce")
"""Around the ring each share goes as two messages, of which one is under way while the other is summed."""
_SEGMENT_BYTES = 2**20
"""The largest that travels in one message around a ring."""
_PREAMBLE_BYTES = 48
_MESSAGE_BYTES = _PREAMBLE_BYTES + ACKNOWLEDGEMENT_BYTES / 2 + _PREAMBLE_BYTES + 2 * ACKNOWLEDGEMENT_BYTES
"""What a message takes of a link beyond its payload: the preamble, the headers of a last frame that is half full, and
for a message the other way the notice of its receiver in a frame of its own, and the answer to that."""


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
        offer = self.run(*_algorithm(request), request)
        return [_with_waits(offer, request) if request.kind == "all_to_all" else offer]

    def run(self, algorithm: str, phases: Phases, request: Request) -> Offer:
        """Add the headers, and what the machine takes that emulates the hosts, where one does."""
        offer = Offer(algorithm, phases, efficiency=self._efficiency)
        costs = self._emulation
        if costs is None:
            return offer
        halves = 2 if request.kind in _IN_HALVES else 1
        turns = max(1.0, request.ranks / self._measured_cores)
        copies = request.size_bytes * _COPIES.get(request.kind, 0.0) * turns
        return replace(
            offer,
            step_s=costs.step_s,
            step_core_s=costs.step_cpu_s,
            step_bytes=halves * _MESSAGE_BYTES * self._efficiency,
            copied_s=copies * costs.copy_s_per_byte,
            hides_steps=request.kind in _IN_HALVES,
            opposed_rate=costs.opposed_rate if request.per_host == 1 else 1.0,
        )


def _algorithm(request: Request) -> tuple[str, Phases]:
    special = {"send": send, "broadcast": _broadcast, "reduce": _reduce, "reduce_scatter": _reduce_scatter}
    if request.kind == "all_gather" and request.ranks == 2:
        return "ring", _pair_gather(request)
    if request.kind in special:
        return f"gloo's {request.kind}", special[request.kind](request)
    if request.kind == "all_reduce":
        return "ring", _backwards(request)
    name = {"all_gather": "ring", "barrier": "bruck"}.get(request.kind, "direct")
    return name, ALGORITHMS[name](request) or ()


def _with_waits(offer: Offer, request: Request) -> Offer:
    """Let gloo's all-to-all wait for notices.

    A rank calls `send` to the rank i after it and `recv` from the rank i before it, for i from 1 on. Of a pair, whoever
    calls later finds the other ready. Where it is to send first, i <= n/2, its own notice waits behind all that it
    sends, and the other direction comes afterwards; else the notice goes first, and both directions flow at once. The
    rank that called first of all receives everything at once, and then has n/2 of n - 1 flows left to send, or (n-1)/2
    where n is odd. So long it takes, in whatever order the ranks call. Where parts are unequal, as many flows of the
    mean size follow the most that a rank sends or receives. Two ranks have one message each, which waits as a whole.
    """
    mean = request.share_bytes
    largest = max(request.splits.sizes_bytes) if request.splits else mean
    left = request.ranks // 2 / max(1, request.ranks - 1)
    waiting = left * mean / largest if largest else 0.0
    return replace(offer, waiting_share=waiting, message_bytes=mean if request.ranks > 2 else math.inf)


def _backwards(request: Request) -> Phases:
    """Go around the ring in gloo's direction: each rank sends to the one before it."""
    pattern = Pattern("shift", request.ranks, request.ranks - 1)
    return tuple(replace(phase, pattern=pattern) for phase in ring(request) or ())


def _pair_gather(request: Request) -> Phases:
    """Let two ranks gather in three turns: a half there, halves both ways, a half back.

    Whoever calls later finds the other ready and sends both halves. Its own notices lie behind them, one behind each,
    so the other's halves each begin when one of its own has come. Calls within a message's latency would save a turn.
    """
    half = request.share_bytes / 2
    there, back = Pattern("from_root", 2), Pattern("to_root", 2)
    return Phase(there, half), Phase(Pattern("ring", 2), half), Phase(back, half)


def _reduce_scatter(request: Request) -> Phases:
    return _backwards(request.of_kind("all_reduce"))


def _reduce(request: Request) -> Phases:
    """Sum around the ring until two segments are left, all of them where a rank has more than two; then send shares.

    So a large buffer goes around nearly whole. Ranks that own the end of a buffer that segments do not fill send most.
    """
    size, ranks = request.size_bytes, request.ranks
    of_a_rank = max(2, math.ceil(size / _SEGMENT_BYTES / ranks))
    segment = min(size / (2 * ranks), _SEGMENT_BYTES)
    rounds = of_a_rank * ranks - 2
    (scattered,) = _backwards(request.of_kind("reduce_scatter"))
    around = replace(scattered, flow_bytes=min(size, rounds * segment), steps=rounds // 2)
    return around, Phase(Pattern("to_root", ranks), (size - of_a_rank * segment) / (ranks - 1))


def _broadcast(request: Request) -> Phases:
    """Pass the buffer down a binomial tree, one depth after another; a rank has its bits' number as depth."""
    depths = range(1, request.ranks.bit_length())
    return tuple(
        Phase(Pattern("depth", request.ranks, depth), request.size_bytes, first_of=_children(request.ranks, depth))
        for depth in depths
    )


def _children(ranks: int, depth: int) -> int:
    """Count those of the first rank of a depth whose first child sends on; 1 where that has none."""
    parent = 2 ** (depth - 1) - 1
    return (ranks - 1 - parent).bit_length() - depth + 1 if 2 ** (depth + 1) - 1 < ranks else 1
