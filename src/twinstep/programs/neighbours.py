"""Neighbours of gossip: with whom a worker averages its parameters, and with which weights.

With weights w_ij = w_ji that add up to 1 for every worker, x_i <- sum_j w_ij x_j keeps the mean of all workers, and on
a connected graph draws them together. Metropolis-Hastings weights are such, and each worker knows its own from its
neighbours' numbers of neighbours d:

    w_ij = 1/(1 + max(d_i, d_j)) for neighbours    w_ii = 1 - sum_j w_ij

Where all have d neighbours, each weight is 1/(d + 1). Source: Xiao and Boyd, "Fast linear iterations for distributed
averaging", 2004; Xiao, Boyd and Lall, "A scheme for robust distributed sensor fusion based on average consensus", 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinstep.plan import Plan
from twinstep.topologies import TopologyFile, build, nearest_ranks


def neighbours(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """List for each worker its neighbours: those beside it on the ring of the ranks, or the nearest in the topology.

    Raises TypeError for a plan whose topology is still the name of a file.
    """
    ranks = plan.ranks
    if plan.sync.neighbours == "ring":
        return tuple(tuple(sorted({(rank - 1) % ranks, (rank + 1) % ranks} - {rank})) for rank in range(ranks))
    if isinstance(plan.topology, TopologyFile):
        raise TypeError("the topology of a plan must be in place before the plan is lowered")
    return nearest_ranks(build(plan.topology), plan.devices)


def mixing_weights(peers: Sequence[Sequence[int]]) -> tuple[Mapping[int, float], ...]:
    """Give for each worker the weight of each neighbour; its own is what they leave of 1.

    >>> mixing_weights([[1], [0, 2], [1]])[1]
    {0: 0.3333333333333333, 2: 0.3333333333333333}
    """
    degrees = list(map(len, peers))
    return tuple(
        {other: 1 / (1 + max(degrees[rank], degrees[other])) for other in others} for rank, others in enumerate(peers)
    )
