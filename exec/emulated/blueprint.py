"""Blueprint: what must be built for a plan, before anything is: namespaces, cables, addresses, next hops.

Hosts, switches, network cards and storage are a namespace each; devices live in that of their host, and the links
between the two are not built. A cable is a pair of virtual interfaces; each of its ends sends at the rate of the link
that leads away from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from twinstep.built_links import built_links
from twinstep.disturbances import LinkChange
from twinstep.errors import InputError
from twinstep.exec.emulated.next_hops import NextHop, next_hops, sources_by_link, ways
from twinstep.plan import Plan
from twinstep.topologies import Link, Topology

_FIRST_ADDRESS = int(IPv4Address("10.0.0.1"))
MOST_NODES = 128
"""Namespaces that one machine is asked for at most."""


class End(NamedTuple):
    """One end of a cable."""

    node: str
    port: str
    """The name of the interface."""
    link: int | None
    """The index of the link that leads away from it; None where nothing does."""


class Cable(NamedTuple):
    """A pair of interfaces."""

    ends: tuple[End, End]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Everything that must be built."""

    nodes: tuple[str, ...]
    """Of each namespace, the node of the topology that it is."""
    addresses: Mapping[str, str]
    """Those of hosts and storage."""
    cables: tuple[Cable, ...]
    links: Mapping[int, Link]
    """The links that are built, by their index in the topology, with the bandwidth they have during the run."""
    hops: tuple[NextHop, ...]
    sources: Mapping[int, tuple[str, ...]]
    """For each link, the hosts whose flows cross it."""
    mtu: int

    @property
    def ports(self) -> Mapping[int, End]:
        """Give for each link that is built the end that sends into it."""
        return {end.link: end for cable in self.cables for end in cable.ends if end.link is not None}


def blueprint(plan: Plan, topology: Topology) -> Blueprint:
    """Draw what a plan needs. Raises InputError for what cannot be built as the plan says."""
    nodes = tuple(node for node in topology.nodes if topology.place_of(node) == node)
    if len(nodes) > MOST_NODES:
        raise InputError(
            f"the topology has {len(nodes)} hosts and switches: {MOST_NODES} can be emulated at most",
            remedy="use `twinstep predict`",
        )
    kinds = topology.graph.nodes(data="kind")
    stores = tuple(node for node in nodes if kinds[node] == "storage")
    places = (*topology.hosts, *stores)
    links = built_links(plan, topology)
    _check_links(links.values(), plan.run.link_changes)
    _check_others(plan, kinds)
    senders = dict.fromkeys(
        [*(topology.devices[index] for index in plan.devices), *(end for o in plan.run.background for end in o.ends)]
    )
    ends = {place: [node for node in senders if topology.place_of(node) == place] or [place] for place in places}
    found = ways(topology, plan.communication.routing, ends)
    return Blueprint(
        nodes=nodes,
        addresses={place: str(IPv4Address(_FIRST_ADDRESS + number)) for number, place in enumerate(places)},
        cables=tuple(_cables(links, topology)),
        links=links,
        hops=tuple(next_hops(found)),
        sources=sources_by_link(found),
        mtu=plan.communication.mtu,
    )


def _check_links(links: Iterable[Link], changes: Sequence[LinkChange]) -> None:
    ends = set()
    for link in links:
        ends.add(frozenset(link[:2]))
        if link.shared:
            raise InputError(
                f"the link between {link.source!r} and {link.target!r} is half duplex, and cannot be emulated",
                remedy="make it full duplex, or use `twinstep predict`",
            )
    for change in changes:
        if frozenset((change.source, change.target)) not in ends:
            raise InputError(
                f"run.link_changes names the link of {change.source!r} and {change.target!r}, which is not emulated",
                remedy="name a link that leads from host to host or switch, or use `twinstep predict`",
            )


def _check_others(plan: Plan, kinds: Mapping[str, str]) -> None:
    for end in (end for other in plan.run.background for end in other.ends):
        if kinds[end] not in ("host", "device", "storage"):
            raise InputError(
                f"run.background names {end!r}, a {kinds[end]}, which neither sends nor receives",
                remedy="name a host, a device or storage",
            )


def _cables(links: Mapping[int, Link], topology: Topology) -> list[Cable]:
    """Join the two directions of a link, which are a cable; one direction alone has an end that sends nothing."""
    by_ends = {(link.source, link.target): index for index, link in links.items()}
    cables = []
    for (source, target), index in by_ends.items():
        back = by_ends.get((target, source))
        if back is not None and back < index:
            continue
        there = End(topology.place_of(source), f"e{index}", index)
        cables.append(Cable((there, End(topology.place_of(target), f"e{index}b", back))))
    return cables
