r"""GPUs of a machine and what joins them, as a graph specification.

A route takes the fewest hops, and every device is linked to its host. So a tree of PCIe bridges, in which some
pairs of GPUs meet at a bridge and others not before the link between the sockets, is laid flat: each place where
a pair meets becomes a switch, and each GPU below it is linked to it with the narrowest bandwidth of its way there.

         bridge0          PIX: GPU 0 and 1           smp0    SYS: all others
         /     \                            and   /  |  |  \
      gpu0     gpu1                             gpu0  1  2   gpu3

One pair at a time thus gets the bandwidth and latency of its way. Pairs that share an inner link of the tree do
not slow each other down, as long as they share no GPU: there the model is too fast.

Of several ways of two hops the first in natural order of its middle is taken. The names see to it that this is the
right one: NVSwitch, bridge (nearest first), host-bridge, numa, smp, and last the host (system) and the GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from twinstep.topologies.importers.nccl_numbers import PCIE_STEP_S
from twinstep.topologies.importers.source import specification
from twinstep.topologies.specification import Graph

MOST_GPUS = 256
"""The most GPUs that one file may list."""


@dataclass(frozen=True, slots=True)
class MeetingPoint:
    """A place on the way up from a GPU or NIC, where others may join it."""

    name: str
    bandwidth_bytes_per_s: float
    """Of the narrowest link on the way there."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and its ways to others of its host, but for NVLink."""

    name: str
    host: str
    to_host_bytes_per_s: float
    meeting_points: tuple[MeetingPoint, ...]
    """The nearest first."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A full-duplex link; an end that is no GPU, host or NIC is a switch."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float


def graph_of(
    gpus: Sequence[Gpu], nvlinks: Sequence[Wire], others: Sequence[Wire], nics: Mapping[str, str], place: str
) -> Graph:
    """Make the specification of GPUs, in the order of the ranks, their NVLinks and other links.

    Pairs that NVLink does not join get the switch where they meet. `nics` gives the host of each NIC; `place` is
    what messages call the file.
    """
    hosts = list(dict.fromkeys(gpu.host for gpu in gpus))
    wires = [*nvlinks, *_meetings(gpus, nvlinks), *others]
    known = {*hosts, *nics, *(gpu.name for gpu in gpus)}
    ends = dict.fromkeys(end for wire in wires for end in (wire.source, wire.target) if end not in known)
    nodes: list[dict[str, Any]] = [{"kind": "host", "name": host} for host in hosts]
    for gpu in gpus:
        link = _rates(gpu.to_host_bytes_per_s, PCIE_STEP_S / 2)
        nodes.append({"kind": "device", "name": gpu.name, "host": gpu.host, "device": "cuda", "link": link})
    nodes.extend({"kind": "nic", "name": nic, "host": host} for nic, host in nics.items())
    nodes.extend({"kind": "switch", "name": end} for end in ends)
    links = [
        {"source": wire.source, "target": wire.target, **_rates(wire.bandwidth_bytes_per_s, wire.latency_s)}
        for wire in wires
    ]
    return specification(nodes, links, place)


def _meetings(gpus: Sequence[Gpu], nvlinks: Sequence[Wire]) -> Iterator[Wire]:
    """Link the GPUs to the places where pairs without NVLink meet."""
    names = {gpu.name for gpu in gpus}
    direct = {frozenset((wire.source, wire.target)) for wire in nvlinks}
    switches = {gpu.name: {wire.target for wire in nvlinks if wire.source == gpu.name} - names for gpu in gpus}
    needed = {
        meeting_point(one, other)
        for one, other in combinations(gpus, 2)
        if one.host == other.host
        and frozenset((one.name, other.name)) not in direct
        and not switches[one.name] & switches[other.name]
    }
    for gpu in gpus:
        for point in gpu.meeting_points:
            if point.name in needed:
                yield Wire(gpu.name, point.name, point.bandwidth_bytes_per_s, PCIE_STEP_S / 2)


def meeting_point(one: Gpu, other: Gpu) -> str:
    """Give the nearest place where the ways of two GPUs of a host come together."""
    others = {point.name for point in other.meeting_points}
    return next(point.name for point in one.meeting_points if point.name in others)


def _rates(bandwidth_bytes_per_s: float, latency_s: float) -> dict[str, str]:
    return {"bandwidth": f"{bandwidth_bytes_per_s!r} B/s", "latency": f"{latency_s!r} s"}
