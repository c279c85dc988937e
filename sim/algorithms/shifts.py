"""Shifts and direct sends: every rank sends to the one so many places further, or to all that it must reach.

*Pairwise*: in step i = 1, ..., n - 1 of an all-to-all every rank sends a share to the one i places further, so that
nobody gets two messages at once. Above 64 ranks the steps are one phase with the bytes of all of them: the sum over a
link is the same, but a link that only some steps use counts as if it could be used all the time.
*Direct*: everything is sent at once. *Bruck*: what is known (all-gather), or what must still travel by a bit of its
distance (all-to-all), is passed on over distances 1, 2, 4, ...: few steps, for an all-to-all at the price of bytes.

    pairwise all-to-all     (n - 1) (a + S/(n B))
    direct all-to-all, all-gather, reduce-scatter, gather, scatter    a + (n - 1) S/(n B)
    direct broadcast, reduce                                          a + (n - 1) S/B
    direct all-reduce                                              2 (a + (n - 1) S/(n B))
    Bruck all-gather        k a + (n - 1) S/(n B),   k = ceil(log2 n)
    Bruck all-to-all        k a + S/(n B) sum over i < n of the bits in i        (k (a + S/(2 B)) for n = 2^k)
    Bruck barrier           k a       (as dissemination: Hensgen, Finkel, Manber, 1988)

An all-to-all with unequal parts sends the same messages with other sizes: direct takes a + b/B, where b are the most
bytes that cross the link of one rank, and pairwise (n - 1) a + the sum of the largest parts of all steps over B.
Bruck's algorithm passes on blocks of one size, and has none. A flow is as large as the greatest common divisor of all
parts, and a pair has as many flows as its part has of these, so that bytes of links are exact.

Source: Bruck, Ho, Kipnis, Upfal, Weathersby, "Efficient algorithms for all-to-all communications", 1997.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Phase, Phases, Request

_MOST_PHASES = 64
_MOST_RANKS = 256
"""Of all pairs of more ranks there are too many to list."""


def send(request: Request) -> Phases:
    """One message from the first of two ranks to the second."""
    return (Phase(Pattern("from_root", request.ranks), request.size_bytes),)


def pairwise(request: Request) -> Phases | None:
    """One distance after another; all_to_all."""
    if request.kind != "all_to_all":
        return None
    if request.ranks > _MOST_PHASES:
        return (replace(_parts(request, Pattern("all_pairs", request.ranks)), steps=request.ranks - 1),)
    shifts = (Pattern("shift", request.ranks, distance) for distance in range(1, request.ranks))
    return tuple(_parts(request, shift) for shift in shifts)


def direct(request: Request) -> Phases | None:
    """Everything at once; everything but a barrier, and all_reduce as a reduce-scatter and an all-gather.

    Above 256 ranks only an all-to-all, which has no algorithm that does not send between all pairs, and the rooted.
    """
    if request.ranks > _MOST_RANKS and request.kind in ("all_reduce", "all_gather", "reduce_scatter"):
        return None
    spread = Phase(Pattern("all_pairs", request.ranks), request.share_bytes)
    summed_bytes = (request.ranks - 1) * request.share_bytes
    collect = Phase(Pattern("all_pairs", request.ranks), request.share_bytes, reduced_bytes=summed_bytes)
    out = Pattern("from_root", request.ranks)
    everything = (request.ranks - 1) * request.size_bytes
    phases: dict[str, Phases] = {
        "all_to_all": (_parts(request, spread.pattern),),
        "all_gather": (spread,),
        "reduce_scatter": (collect,),
        "all_reduce": (collect, spread),
        "scatter": (Phase(out, request.share_bytes),),
        "gather": (Phase(out.reversed(), request.share_bytes),),
        "broadcast": (Phase(out, request.size_bytes),),
        "reduce": (Phase(out.reversed(), request.size_bytes, reduced_bytes=everything),),
    }
    return phases.get(request.kind)


def bruck(request: Request) -> Phases | None:
    """Distances 1, 2, 4, ...; all_gather, all_to_all with equal parts and barrier."""
    if request.splits is not None:
        return None
    distances = [1 << bit for bit in range((request.ranks - 1).bit_length())]
    shares = {
        "all_gather": [min(distance, request.ranks - distance) for distance in distances],
        "all_to_all": [sum(1 for rank in range(request.ranks) if rank & distance) for distance in distances],
        "barrier": [0] * len(distances),
    }
    if request.kind not in shares:
        return None
    flows = zip(distances, shares[request.kind], strict=True)
    return tuple(Phase(Pattern("shift", request.ranks, d), count * request.share_bytes) for d, count in flows)


def _parts(request: Request, pattern: Pattern) -> Phase:
    """Let each pair of a pattern send its part of an all-to-all."""
    if request.splits is None:
        return Phase(pattern, request.share_bytes)
    sizes_bytes = request.splits.sizes_bytes
    flow_bytes = gcd(*sizes_bytes)
    counts = tuple(size // flow_bytes for size in sizes_bytes)
    if request.splits.by == "source":
        return Phase(replace(pattern, flows_from=counts), flow_bytes)
    return Phase(replace(pattern, flows_to=counts), flow_bytes)
