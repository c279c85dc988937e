"""In-network reduction: switches add what they receive and pass on one sum (SHARP), or multicast one result (NVLS).

On the tree of links that joins the ranks every link carries the buffer once in each direction, up with sums and down
with the result, segment by segment at the same time. A path up and one down are about as long as a path between two
ranks:

    all-reduce, broadcast, reduce      a + S/B
    barrier                            a

A ring needs 2 (n - 1)/n S/B: at most twice as fast, and in one step. When it is wrong: where switches cannot keep up,
or hold only so many segments. Source: Graham et al., "Scalable Hierarchical Aggregation Protocol (SHArP)", 2016.
"""

from __future__ import annotations

from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Phase, Phases, Request


def in_network(request: Request) -> Phases | None:
    """Up and down the tree at once; all_reduce, broadcast, reduce and barrier."""
    if request.kind not in ("all_reduce", "broadcast", "reduce", "barrier"):
        return None
    return (Phase(Pattern("in_network", request.ranks), request.size_bytes),)
