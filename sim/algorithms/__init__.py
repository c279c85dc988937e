"""Algorithms: how a collective goes about it, as phases of flows between positions of a group.

They know neither topology nor library. `pattern` is who sends to whom, `phase` how much and in how many steps; each
module derives the closed forms of its algorithms, for S bytes of a rank's whole buffer among n ranks over links of B
bytes/s with a seconds of latency a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twinstep.sim.algorithms.exchanges import halving_doubling, recursive_doubling
from twinstep.sim.algorithms.hierarchical import hierarchical
from twinstep.sim.algorithms.in_network import in_network
from twinstep.sim.algorithms.pattern import Pattern
from twinstep.sim.algorithms.phase import Kind, Phase, Phases, Request
from twinstep.sim.algorithms.rings import bidirectional_ring, channels, ring
from twinstep.sim.algorithms.shifts import bruck, direct, pairwise, send
from twinstep.sim.algorithms.trees import binomial, double_binary_tree, pipelined_binomial, trees_of_channels

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Kind",
    "Pattern",
    "Phase",
    "Phases",
    "Request",
    "channels",
    "direct",
    "in_network",
    "ring",
    "send",
    "trees_of_channels",
]

Algorithm = Callable[[Request], Phases | None]
"""Gives the phases of a collective; None for one that it does not offer."""

ALGORITHMS: Mapping[str, Algorithm] = {
    "ring": ring,
    "ring_per_device": channels,
    "bidirectional_ring": bidirectional_ring,
    "double_binary_tree": double_binary_tree,
    "tree_per_device": trees_of_channels,
    "halving_doubling": halving_doubling,
    "recursive_doubling": recursive_doubling,
    "bruck": bruck,
    "pairwise": pairwise,
    "direct": direct,
    "binomial": binomial,
    "pipelined_binomial": pipelined_binomial,
    "hierarchical": hierarchical,
    "in_network": in_network,
}
"""By the name that a plan gives them."""
