"""Trees: the buffer moves along the edges of a tree, to the root for a reduce, from it for a broadcast.

*Binomial, unpipelined.* In step i the 2^i ranks that have the data send it to as many others: k = ceil(log2 n) steps
of the whole buffer. Gather and scatter halve what moves with every step away from the root.

    broadcast, reduce        k (a + S/B)
    all-reduce             2 k (a + S/B), a reduce and a broadcast
    gather, scatter          k a + (n - 1)/n S/B      for n = 2^k; otherwise the fullest rank's bytes
    barrier                2 k a

*Binomial, pipelined.* The buffer is cut into m segments; every edge carries one a step, and the root, which has k
children, needs k S/(m B) for it. The last segment leaves after m - 1 steps and needs k more.

    broadcast, reduce        (m + k - 1) (a + k S/(m B))

*Double binary tree.* Two binary trees over the same ranks, each with half of the buffer; an inner node of one is a leaf
of the other, so every rank sends at most twice the buffer: up once in each tree, down to two children in one. Reduce
and broadcast follow each other segment by segment: with heights of d edges and m segments of each half,

    all-reduce               (m + 2d - 1) (a + 2 S/(m B)),   d = the height, about log2 n

The bandwidth term is n/(n - 1) of a ring's, the latency term logarithmic. Sources: Thakur, Rabenseifner, Gropp,
"Optimization of collective communication operations in MPICH", 2005; Sanders, Speck, Traeff, 2009; NCCL 2.4.
"""

from __future__ import annotations

from twinstep.sim.algorithms.pattern import Pattern, double_tree_edges
from twinstep.sim.algorithms.phase import Phase, Phases, Request, segments


def binomial(request: Request) -> Phases | None:
    """One level of the tree after another."""
    distances = [1 << level for level in range((request.ranks - 1).bit_length())]
    up = [Pattern("level", request.ranks, distance).reversed() for distance in distances]
    down = [Pattern("level", request.ranks, distance) for distance in reversed(distances)]
    shares_bytes = [request.share_bytes * min(distance, request.ranks - distance) for distance in distances]
    to_root = tuple(Phase(pattern, request.size_bytes, reduced_bytes=request.size_bytes) for pattern in up)
    from_root = tuple(Phase(pattern, request.size_bytes) for pattern in down)
    match request.kind:
        case "broadcast":
            return from_root
        case "reduce":
            return to_root
        case "all_reduce" | "barrier":
            return to_root + from_root
        case "scatter":
            return tuple(Phase(*flows) for flows in zip(down, reversed(shares_bytes), strict=True))
        case "gather":
            return tuple(Phase(*flows) for flows in zip(up, shares_bytes, strict=True))
        case _:
            return None


def pipelined_binomial(request: Request) -> Phases | None:
    """All edges of the tree at once, a segment a step."""
    if request.kind not in ("broadcast", "reduce"):
        return None
    down = Pattern("depth", request.ranks)
    pattern, reduced_bytes = (down, 0.0) if request.kind == "broadcast" else (down.reversed(), request.size_bytes)
    count, depth = segments(request.size_bytes), (request.ranks - 1).bit_length()
    fill_bytes = (depth - 1) * request.size_bytes / count
    return (Phase(pattern, request.size_bytes, count + depth - 1, fill_bytes, reduced_bytes, depth),)


def double_binary_tree(request: Request) -> Phases | None:
    """Both trees at once, up and down, a segment a step; all_reduce."""
    if request.kind != "all_reduce":
        return None
    return _up_and_down(request, Pattern("double_tree", request.ranks), 1, double_tree_height(request.ranks))


def trees_of_channels(request: Request) -> Phases | None:
    """Double trees over hosts and chains within, one set a device of a host, as NCCL builds them; all_reduce."""
    block, hosts = request.per_host, request.ranks // request.per_host
    if request.kind != "all_reduce" or block == 1:
        return double_binary_tree(request)
    pattern = Pattern("trees_of_channels", request.ranks, block)
    return _up_and_down(request, pattern, block, double_tree_height(hosts) + block - 1)


def _up_and_down(request: Request, pattern: Pattern, sets: int, height: int) -> Phases:
    """Send half of each set's part of the buffer through each of its two trees, to the root and back."""
    half_bytes = request.size_bytes / sets / 2
    count, hops = segments(half_bytes), 2 * height
    fill_bytes = (hops - 1) * half_bytes / count
    return (Phase(pattern, half_bytes, count + hops - 1, fill_bytes, request.size_bytes, hops),)


def double_tree_height(ranks: int) -> int:
    """Count the edges between the root and the deepest leaf of either tree.

    >>> [double_tree_height(ranks) for ranks in (2, 3, 4, 8, 1024)]
    [1, 2, 2, 3, 10]
    """
    parent = dict(double_tree_edges(ranks)[: ranks - 1])
    height = 0
    for leaf in range(ranks):
        depth, rank = 0, leaf
        while rank in parent:
            depth, rank = depth + 1, parent[rank]
        height = max(height, depth)
    return height
