"""Rings: every rank sends to its successor all the time.

*All-gather*: in each of n - 1 steps every rank passes on the share it got last; every share visits every rank, and
every link carries (n - 1) S/n bytes. *Reduce-scatter* is the same with sums, the other way in time. *All-reduce* is
one after the other. Each rank must receive, and in a reduce-scatter send, (n - 1) S/n bytes, so on equal links the
bandwidth term is the least there can be; the latency term is the largest.

    all-reduce                       2 (n - 1) (a + S / (n B))
    all-gather, reduce-scatter         (n - 1) (a + S / (n B))
    broadcast, reduce               (m + n - 2) (a + S / (m B)),   a chain along the ring, in m segments
    bidirectional: each direction of every link carries half, S/2 instead of S in the formulas above

Bidirectional gains only where the two neighbours are reached over different links, as in a ring of cables; behind one
switch port both directions of the ring share the port. When the formulas are wrong: where hops share links (the
slowest sets the pace for all), and below some KiB a step, where software is slower than the network.
Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
"""

from __future__ import annotations

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Phase, Phases, Request, segments

_PIPELINED = ("broadcast", "reduce")
_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}


def ring(request: Request) -> Phases | None:
    """One ring; all_reduce, all_gather, reduce_scatter, broadcast and reduce.

    >>> phase, = ring(Request("all_reduce", ranks=4, size_bytes=4000))
    >>> phase.steps, phase.flow_bytes
    (6, 6000.0)
    """
    pattern = Pattern("chain" if request.kind in _PIPELINED else "ring", request.ranks)
    return _around(request, pattern, 1)


def bidirectional_ring(request: Request) -> Phases | None:
    """Two rings, one in each direction, each with half of the bytes; all_reduce, all_gather and reduce_scatter."""
    if request.kind in _PIPELINED:
        return None
    return _around(request, Pattern("both_ways", request.ranks), 2)


def channels(request: Request) -> Phases | None:
    """One ring a device of a host, as NCCL builds them: each leaves the hosts by another device."""
    if request.per_host in (1, request.ranks):
        return ring(request)
    return _around(request, Pattern("channels", request.ranks, request.per_host), request.per_host)


def _around(request: Request, pattern: Pattern, rings: int) -> Phases | None:
    if request.kind in _PIPELINED:
        return _along(request, pattern, rings)
    if request.kind not in _ROUNDS:
        return None
    steps = _ROUNDS[request.kind] * (request.ranks - 1)
    reduced_bytes = 0.0 if request.kind == "all_gather" else (request.ranks - 1) * request.share_bytes
    return (Phase(pattern, steps * request.share_bytes / rings, steps, reduced_bytes=reduced_bytes),)


def _along(request: Request, pattern: Pattern, rings: int) -> Phases:
    """Pass the buffer along the ring, segment by segment."""
    flow_bytes = request.size_bytes / rings
    count = segments(flow_bytes)
    fill_bytes = (request.ranks - 2) * flow_bytes / count
    reduced_bytes = request.size_bytes if request.kind == "reduce" else 0.0
    return (Phase(pattern, flow_bytes, count + request.ranks - 2, fill_bytes, reduced_bytes, request.ranks - 1),)
