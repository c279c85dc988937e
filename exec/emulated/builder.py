"""Builder: makes the namespaces, cables, routes and token buckets of a blueprint.

A cable's two interfaces have the same hardware address and no ARP: whatever one end sends is for the other. Addresses
are those of hosts alone, on their loopback interface, where gloo listens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinstep.errors import RunError
from twinstep.exec.emulated.blueprint import Blueprint, Cable, End
from twinstep.exec.emulated.namespaces import Namespace
from twinstep.exec.emulated.next_hops import NextHop
from twinstep.shaping import Shape

_FIRST_TABLE = 1000
_FAIR = "cubic"
_LEAST_WINDOW_BYTES = 2**14
_RECEIVED_WINDOWS = 64
"""Windows that a receiver takes; senders are kept to one by their buffers. TCP refuses data whose acknowledgement is
older by a window than one that has overtaken it."""
_MOST_RECEIVED_BYTES = 2**30
_SETTINGS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/tcp_no_metrics_save": 1,
}
_IPV6_OFF = ("ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this kernel can do of what a cluster would like."""

    delays: bool
    """Whether links can have a latency (netem)."""
    congestion: str
    """The congestion control of the ranks' connections: cubic, or the machine's own where that cannot be set."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was built; it is gone when this process and all in its namespaces have ended."""

    blueprint: Blueprint
    namespaces: Mapping[str, Namespace]
    abilities: Abilities


def build(blueprint: Blueprint) -> Cluster:
    """Build a cluster. Raises RunError, with the remedy, where the machine cannot."""
    home = Namespace()  # the tools that build run here: a namespace of their own, with nothing in it
    abilities = _abilities(home)
    namespaces = {node: Namespace() for node in blueprint.nodes}
    for namespace in namespaces.values():
        _prepare(namespace)
    home.run("ip", [_lay(blueprint, cable, namespaces) for cable in blueprint.cables])
    ends = [end for cable in blueprint.cables for end in cable.ends if end.link is not None]
    all_shapes = [_shape(blueprint, end, abilities) for end in ends]
    window = max((shape.window_bytes for shape in all_shapes), default=_LEAST_WINDOW_BYTES)
    received = min(2 * _RECEIVED_WINDOWS * window, _MOST_RECEIVED_BYTES)
    largest = max((shape.piece_bytes for shape in all_shapes), default=0)
    for node, namespace in namespaces.items():
        own = [end for cable in blueprint.cables for end in cable.ends if end.node == node]
        shapes = {end.port: _shape(blueprint, end, abilities) for end in own if end.link is not None}
        address = blueprint.addresses.get(node)
        own_address = ["address flush dev lo", f"address add {address}/32 dev lo"] if address else []
        loopback = [f"link set lo mtu {blueprint.mtu} up", *own_address]  # windows are shorter than its own packets
        up = [_up(end, shapes.get(end.port)) for end in own]
        namespace.run("ip", [*loopback, *up, *_routes(blueprint, node, abilities)])
        namespace.run("tc", [line for end in own for line in _shaping(blueprint, end, shapes, largest)])
        namespace.set("ipv4/tcp_wmem", f"4096 16384 {window}")
        namespace.set("ipv4/tcp_rmem", f"4096 {received // 2} {received}")
    home.enter()
    return Cluster(blueprint, namespaces, abilities)


def _abilities(home: Namespace) -> Abilities:
    def can(tool: str, command: str) -> bool:
        with contextlib.suppress(RunError):
            home.run(tool, [command])
            return True
        return False

    home.run("ip", ["link set lo up"])
    delays = can("tc", "qdisc add dev lo root netem delay 1ms")
    cubic = can("ip", f"route add 10.0.0.1/32 dev lo congctl {_FAIR}")
    own = home.look(Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text).strip()
    return Abilities(delays, _FAIR if cubic else own)


def _prepare(namespace: Namespace) -> None:
    for setting, value in _SETTINGS.items():
        namespace.set(setting, value)
    for setting in _IPV6_OFF:
        with contextlib.suppress(RunError):  # a kernel without IPv6 has nothing to turn off
            namespace.set(setting, 1)


def _lay(blueprint: Blueprint, cable: Cable, namespaces: Mapping[str, Namespace]) -> str:
    """Give the command that lays a cable from one namespace to another."""
    near, far = cable.ends
    number = near.link or far.link or 0
    common = f"address 02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x} mtu {blueprint.mtu}"
    there = f"netns {namespaces[near.node].path} {common}"
    return f"link add {near.port} {there} type veth peer name {far.port} netns {namespaces[far.node].path} {common}"


def _shaping(blueprint: Blueprint, end: End, shapes: Mapping[str, Shape], largest_bytes: int) -> list[str]:
    if end.link is None:
        return []
    sources = [blueprint.addresses[source] for source in blueprint.sources.get(end.link, ())]
    return shapes[end.port].commands(end.port, sources, largest_bytes)


def _up(end: End, shape: Shape | None) -> str:
    pieces = f"gso_max_size {shape.piece_bytes} gro_max_size {shape.piece_bytes}" if shape else ""
    return f"link set {end.port} arp off {pieces} up"


def _shape(blueprint: Blueprint, end: End, abilities: Abilities) -> Shape:
    link = blueprint.links[end.link or 0]
    return Shape(link.bandwidth_bytes_per_s, link.latency_s if abilities.delays else 0.0, blueprint.mtu)


def _routes(blueprint: Blueprint, node: str, abilities: Abilities) -> list[str]:
    ports = blueprint.ports
    own = blueprint.addresses.get(node)
    extra = f"src {own} congctl {abilities.congestion}" if own else ""
    commands = []
    for hop in (hop for hop in blueprint.hops if hop.node == node):
        target, port = blueprint.addresses[hop.target], ports[hop.link].port
        if hop.source is None:
            commands.append(f"route add {target}/32 dev {port} {extra}")
        else:
            commands += _rule(hop, blueprint, target, port, extra)
    return commands


def _rule(hop: NextHop, blueprint: Blueprint, target: str, port: str, extra: str) -> list[str]:
    source, table = blueprint.addresses[hop.source or ""], _FIRST_TABLE + hop.link
    return [
        f"rule add from {source} to {target} lookup {table}",
        f"route replace {target}/32 dev {port} table {table} {extra}",
    ]
