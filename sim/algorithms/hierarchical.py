"""Hierarchical: rings within hosts, then rings across them.

Of n = l h ranks, l on each of h hosts: a reduce-scatter within every host leaves each rank with the host's sum of S/l
bytes; the ranks in the same place of every host all-reduce these, l rings at once; an all-gather within every host
ends it. With latency a and bandwidth B of a link within, a' and B' of a host's link to the others, which its l rings
share,

    all-reduce                    2 (l - 1) (a + S/(l B)) + 2 (h - 1) (a' + S/(h B'))
    all-gather, reduce-scatter      (l - 1) (a + S/(l B)) +   (h - 1) (a' + S/(h B'))

against a flat ring's 2 (n - 1) (a' + S/(n min(B, B'))): fewer slow steps. With a network card for each device B' is
that of all cards together. Source: Cho et al., "BlueConnect", 2019, of which this is the case of two levels.
"""

from __future__ import annotations

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Phase, Phases, Request


def hierarchical(request: Request) -> Phases | None:
    """Within hosts, across them, and back; all_reduce, all_gather, reduce_scatter on several hosts of several ranks."""
    block, hosts = request.per_host, request.ranks // request.per_host
    if block == 1 or hosts == 1 or request.kind not in ("all_reduce", "all_gather", "reduce_scatter"):
        return None
    inside, across = Pattern("ring", request.ranks, block), Pattern("across", request.ranks, block)
    within_bytes = (block - 1) * request.size_bytes / block
    between_bytes = (hosts - 1) * request.share_bytes
    scatter = Phase(inside, within_bytes, block - 1, reduced_bytes=within_bytes)
    gather = Phase(inside, within_bytes, block - 1)
    if request.kind == "all_gather":
        return Phase(across, between_bytes, hosts - 1), gather
    if request.kind == "reduce_scatter":
        return scatter, Phase(across, between_bytes, hosts - 1, reduced_bytes=between_bytes)
    return scatter, Phase(across, 2 * between_bytes, 2 * (hosts - 1), reduced_bytes=between_bytes), gather
