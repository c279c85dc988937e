"""Circles: all that communicates in the same way, as rows of equal length, and what they will ask for.

A kind of group is a circle whose rows are its groups; the messages of one lane from one position of a group to
another are a circle with rows of two; copies between devices and their hosts are a circle for each direction. Rows of
different placement, by how many neighbours share a host, are circles of their own, since libraries treat them
differently. A dry run of one program of each key tells what is asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.effects import Collective, HostCopy, Transfer
from twinstep.programs import Groups, Strategy, first_steps
from twinstep.programs.mesh import HOST
from twinstep.sim.algorithms import Kind
from twinstep.splits import Splits

Ints = NDArray[np.int64]

HOST_COPIES = ("to_host", "to_device")


class Demand(NamedTuple):
    """A kind of communication and its bytes."""

    kind: Kind
    size_bytes: int
    splits: Splits | None = None


@dataclass(frozen=True, slots=True)
class Circle:
    """Rows of ranks that communicate in the same way."""

    key: Hashable
    """What a rank looks it up by: a kind of group, (kind, lane, position of the sender, of the receiver), or the
    direction of copies between devices and hosts."""
    ranks: Ints
    """One row a group or a channel, or a rank that copies; rows without ranks where others than the plan's ranks
    communicate."""
    nodes: Ints
    """The nodes of the topology that communicate, in the same rows."""
    per_host: int
    """How many consecutive ranks of a row share a host; 1 where that differs within the row."""
    demands: tuple[Demand, ...]
    is_on_one_host: bool = False
    """Whether each row is on one host."""

    @property
    def is_ours(self) -> bool:
        """Tell whether ranks of the plan communicate, rather than others."""
        return bool(self.ranks.size)

    @property
    def is_host_copies(self) -> bool:
        """Tell whether rows are a rank and its host, which copy in one direction."""
        return self.key in HOST_COPIES

    @property
    def group(self) -> str:
        """Name the kind of group that communicates."""
        if self.is_host_copies:
            return HOST
        return str(self.key[0] if isinstance(self.key, tuple) else self.key)

    @property
    def is_channel(self) -> bool:
        """Tell whether rows are a sender and a receiver rather than a group."""
        return isinstance(self.key, tuple)

    @property
    def size(self) -> int:
        """How many communicate in each row."""
        return int(self.nodes.shape[1])


@dataclass(frozen=True, slots=True)
class Places:
    """Where ranks are: for each rank, the indices of its device and host among the nodes, and its host's resource."""

    nodes: Ints
    host_nodes: Ints
    hosts: Ints


def circles_of(programs: Strategy, keys: Sequence[Hashable], places: Places) -> list[Circle]:
    """List the circles of a plan; `keys` are those of all ranks."""
    first_of: dict[Hashable, int] = {}
    for rank, key in enumerate(keys):
        first_of.setdefault(key, rank)
    collectives: dict[str, dict[Demand, None]] = {}
    channels: dict[tuple[str, str, int, int], dict[Demand, None]] = {}
    copies: dict[str, dict[Demand, None]] = {}
    for rank in first_of.values():
        effects = first_steps(programs.outline.program(rank), programs.period)
        for effect in (*effects, *programs.later_messages(rank)):
            if isinstance(effect, Collective):
                demand = Demand(effect.kind, effect.size_bytes, effect.splits)
                collectives.setdefault(effect.group, {})[demand] = None
            elif isinstance(effect, Transfer) and effect.kind == "send":
                channel = (effect.group, effect.lane, effect.source, effect.target)
                channels.setdefault(channel, {})[Demand("send", effect.size_bytes)] = None
            elif isinstance(effect, HostCopy):
                copies.setdefault(effect.kind, {})[Demand("send", effect.size_bytes)] = None
    return [
        *_group_circles(programs.groups, collectives, places),
        *_channel_circles(programs.groups, channels, places),
        *_host_circles(copies, places),
    ]


def _group_circles(
    groups: Mapping[str, Groups], collectives: Mapping[str, Mapping[Demand, None]], places: Places
) -> Iterator[Circle]:
    for kind, demands in collectives.items():
        per_host = ranks_per_host(places.hosts[groups[kind].ranks])
        for count in np.unique(per_host).tolist():
            ranks = groups[kind].ranks[per_host == count]
            is_on_one_host = count == ranks.shape[1]
            yield Circle(kind, ranks, places.nodes[ranks], count, tuple(demands), is_on_one_host)


def _channel_circles(
    groups: Mapping[str, Groups], channels: Mapping[tuple[str, str, int, int], Mapping[Demand, None]], places: Places
) -> Iterator[Circle]:
    for channel, demands in channels.items():
        kind, _, sender, receiver = channel
        both = groups[kind].ranks[:, [sender, receiver]]
        is_within = places.hosts[both[:, 0]] == places.hosts[both[:, 1]]
        for is_on_one_host in np.unique(is_within).tolist():
            ranks = both[is_within == is_on_one_host]
            yield Circle(channel, ranks, places.nodes[ranks], 1, tuple(demands), is_on_one_host)


def _host_circles(copies: Mapping[str, Mapping[Demand, None]], places: Places) -> Iterator[Circle]:
    ranks = np.arange(len(places.nodes)).reshape(-1, 1)
    ends = {"to_host": (places.nodes, places.host_nodes), "to_device": (places.host_nodes, places.nodes)}
    for kind, demands in copies.items():
        yield Circle(kind, ranks, np.column_stack(ends[kind]), 1, tuple(demands))


def ranks_per_host(hosts: Ints) -> Ints:
    """Count for each row how many consecutive ranks share a host, where each host has one such block; else give 1."""
    rows, size = hosts.shape
    found = np.ones(rows, dtype=np.int64)
    for count in (count for count in range(2, size + 1) if size % count == 0):
        blocks = hosts.reshape(rows, -1, count)
        within = (blocks == blocks[:, :, :1]).all(axis=(1, 2))
        hosts_of_blocks = np.sort(blocks[:, :, 0], axis=1)
        between = (hosts_of_blocks[:, 1:] != hosts_of_blocks[:, :-1]).all(axis=1)
        found[within & between] = count
    return found
