"""Exchanges: in each step every rank swaps data with a partner whose number differs in one bit.

*Recursive halving* (reduce-scatter): partners split what they are responsible for, each sends the other's half and adds
what it gets; k = log2 n steps of S/2, S/4, ..., S/n. *Recursive doubling* (all-gather) is the same backwards.
Halving-doubling all-reduces with one after the other; recursive doubling all-reduces by swapping the whole buffer.

    halving-doubling all-reduce                 2 k a + 2 (n - 1)/n S/B
    halving reduce-scatter, doubling all-gather   k a +   (n - 1)/n S/B
    recursive doubling all-reduce                 k (a + S/B)
    recursive doubling barrier                    k a

for n = 2^k. Of other n, those beyond the largest power of two first give their buffer to a partner and get the result
at the end: all-reduce takes 2 (a + S/B) more, a barrier 2 a; the others are not offered. When it is wrong: where
partners that are far apart share links, as in a tree of switches; then the steps over the scarce links dominate.
Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", 2005.
"""

from __future__ import annotations

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Phase, Phases, Request


def halving_doubling(request: Request) -> Phases | None:
    """Halve to a share each, then double back.

    >>> [phase.flow_bytes for phase in halving_doubling(Request("all_reduce", ranks=4, size_bytes=400))]
    [200.0, 100.0, 100.0, 200.0]
    """
    distances = _distances(request.ranks)
    power = 1 << len(distances)
    flows = [(Pattern("exchange", request.ranks, d), request.size_bytes * d / power) for d in reversed(distances)]
    halving = tuple(Phase(pattern, size, reduced_bytes=size) for pattern, size in flows)
    doubling = tuple(Phase(pattern, size) for pattern, size in reversed(flows))
    if request.kind == "all_reduce":
        return _with_surplus(request, halving + doubling)
    if request.ranks != power:
        return None
    return {"reduce_scatter": halving, "all_gather": doubling}.get(request.kind)


def recursive_doubling(request: Request) -> Phases | None:
    """Swap everything that is known."""
    patterns = [Pattern("exchange", request.ranks, distance) for distance in _distances(request.ranks)]
    if request.kind in ("all_reduce", "barrier"):
        size = request.size_bytes
        return _with_surplus(request, tuple(Phase(pattern, size, reduced_bytes=size) for pattern in patterns))
    if request.kind == "all_gather":
        return halving_doubling(request)
    return None


def _distances(ranks: int) -> list[int]:
    return [1 << bit for bit in range(ranks.bit_length() - 1)]


def _with_surplus(request: Request, phases: Phases) -> Phases:
    """Let the ranks beyond the largest power of two hand in their buffer before, and get the result after."""
    if request.ranks & (request.ranks - 1) == 0:
        return phases
    fold = Pattern("surplus", request.ranks)
    size = request.size_bytes
    return (Phase(fold, size, reduced_bytes=size), *phases, Phase(fold.reversed(), size))
