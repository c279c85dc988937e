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

from twinstep.plan import Plan
from twinstep.profile import EmulationCosts
from twinstep.shaping import ACKNOWLEDGEMENT_BYTES, Shape
from twinstep.topologies import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_UNITS_PER_S = 2.0**44
"""Core seconds are counted in whole units, so that sums of them are exact."""
_SHARES = 2.0**20


class Emulation:
    """The links of a topology as they are emulated on one machine."""

    def __init__(self, plan: Plan, topology: Topology, costs: EmulationCosts, cores: int) -> None:
        ports = [topology.graph.nodes[node]["kind"] != "device" for node in topology.nodes]
        links = topology.links
        ids = topology.node_ids
        is_built = [ports[ids[link.source]] and ports[ids[link.target]] for link in links]
        changed = {
            frozenset((change.source, change.target)): change.bandwidth
            for change in plan.run.link_changes
            if not change.at and change.bandwidth
        }
        rates = [changed.get(frozenset(link[:2])) or link.bandwidth_bytes_per_s for link in links]
        shapes = [Shape(rate, 0.0, plan.communication.mtu) for rate in rates]
        by_ends = {(link.source, link.target): index for index, link in enumerate(links)}
        self.costs = costs
        self.capacity = cores * _UNITS_PER_S
        """That of the machine."""
        self.bursts: dict[int, float] = {
            index: float(shape.burst_bytes) for index, shape in enumerate(shapes) if is_built[index]
        }
        """Bytes that a link lets through at once, by its index."""
        self.back = np.array([by_ends.get((link.target, link.source), -1) for link in links], dtype=np.int64)
        """The index of the link that leads back; -1 where there is none."""
        pieces = np.array([float(shape.piece_bytes) for shape in shapes])
        built = np.array(is_built, dtype=np.float64)
        self.acknowledged: Floats = built * np.round(_SHARES * ACKNOWLEDGEMENT_BYTES / pieces) / _SHARES
        """For each link, bytes of acknowledgements for each byte that crosses it."""
        self.per_byte: Floats = built * np.round(_UNITS_PER_S * costs.piece_cpu_s / pieces)
        """For each link, units of the machine for each byte that crosses it."""
        self.per_end = float(np.round(_UNITS_PER_S * costs.byte_cpu_s))
        """Units of the machine for each byte of a flow."""

    def step_units(self, core_s: float) -> float:
        """Give core seconds in units of the machine."""
        return float(np.round(_UNITS_PER_S * core_s))
