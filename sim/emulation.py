"""Emulation: what an emulated cluster has beyond the network that it stands for.

*The machine.* All hosts share its cores, so they are one more resource: each byte costs core seconds where it is sent
and received, each piece of bytes for every link that it crosses, each step of a rank for its messages. A collective is
as fast as links and machine allow.

*Bursts.* After a pause a link lets its token bucket through at once (`twinstep.shaping`).

*Acknowledgements.* Each piece is answered by a frame of 66 bytes on the links back, which takes 2 % of a link in both
directions where pieces are as small as two frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinstep.built_links import built_links
from twinstep.plan import Plan
from twinstep.profile import EmulationCosts
from twinstep.shaping import ACKNOWLEDGEMENT_BYTES, Shape, payload_share
from twinstep.sim.token_buckets import Bucket
from twinstep.topologies import Topology

Floats = NDArray[np.float64]

_UNITS_PER_S = 2.0**44
"""Core seconds are counted in whole units, so that sums of them are exact."""
_SHARES = 2.0**20


class Emulation:
    """The links of a topology as they are emulated on one machine."""

    def __init__(self, plan: Plan, topology: Topology, costs: EmulationCosts, cores: int) -> None:
        links = topology.links
        built = built_links(plan, topology)
        shapes = {i: Shape(link.bandwidth_bytes_per_s, 0.0, plan.communication.mtu) for i, link in built.items()}
        by_ends = {(link.source, link.target): index for index, link in enumerate(links)}
        self.costs = costs
        self.cores = cores
        self.capacity = cores * _UNITS_PER_S
        """That of the machine."""
        self.buckets = {i: Bucket(float(shape.burst_bytes), shape.piece_bytes / 2) for i, shape in shapes.items()}
        """Of links, in bytes, by their index."""
        self.window_bytes = max((shape.window_bytes for shape in shapes.values()), default=0)
        """Bytes of payload that a flow has under way before another of the same rank gets a turn."""
        self.back = np.array([by_ends.get((link.target, link.source), -1) for link in links], dtype=np.int64)
        """The index of the link that leads back; -1 where there is none."""
        pieces = np.array([float(shapes[i].piece_bytes) if i in shapes else np.inf for i in range(len(links))])
        self.acknowledged: Floats = np.round(_SHARES * ACKNOWLEDGEMENT_BYTES / pieces) / _SHARES
        """For each link, bytes of acknowledgements for each byte that crosses it."""
        self.per_byte: Floats = np.round(_UNITS_PER_S * costs.piece_cpu_s / pieces)
        """For each link, units of the machine for each byte that crosses it."""
        self.per_end = self.units(costs.byte_cpu_s * payload_share(plan.communication.mtu))
        """Units of the machine for each byte of a flow, headers included; the cost is that of a payload's byte."""

    def units(self, core_s: float) -> float:
        """Give core seconds in units of the machine."""
        return float(np.round(_UNITS_PER_S * core_s))
