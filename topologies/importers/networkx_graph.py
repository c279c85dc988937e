"""From a networkx graph, whose attributes say what its nodes and edges are, to a specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import networkx as nx
from pydantic import TypeAdapter, ValidationError

from twinstep.errors import InputError
from twinstep.strict_yaml import Document, describe_validation, did_you_mean
from twinstep.topologies.importers.source import specification
from twinstep.topologies.specification import Graph
from twinstep.units import BandwidthBytesPerS, DurationS
from twinstep.yaml_composer import cut

_Attributes: TypeAlias = Mapping[str, Any]
_KEYS = {"host": ("cores",), "device": ("host",), "nic": ("host",), "switch": (), "storage": ()}
"""The kinds of node, and the attributes that each takes along."""
_RATES = ("peak", "memory_bandwidth", "overhead", "memory", "fragmentation")
_QUANTITIES = (
    ("bandwidth", "bandwidth_bytes_per_s", "B/s", TypeAdapter(BandwidthBytesPerS)),
    ("latency", "latency_s", "s", TypeAdapter(DurationS)),
)
WANTED = (
    "give each node `kind` (host, device, nic, switch or storage), each device and nic `host` (its host's name), each "
    "device `device` (cpu or cuda, or `peak` and `memory_bandwidth`), each edge `bandwidth` (for example "
    '"100 Gb/s") and `latency` ("1 us")'
)
"""What a graph from elsewhere lacks."""


def specification_of(found: nx.Graph[Any], place: str) -> Graph:
    """Make the specification of a graph; `place` is what messages call the file.

    The edge between a device and its host becomes the device's link. Raises InputError naming node or edge.
    """
    if found.is_multigraph():
        raise InputError("has parallel edges", remedy="join them to one with the sum of bandwidths", place=place)
    if not any("kind" in attributes for _, attributes in found.nodes(data=True)):
        raise InputError("no node has the attribute `kind`", remedy=WANTED, place=place)
    nodes = {str(name): _node(str(name), attributes, place) for name, attributes in found.nodes(data=True)}
    links = []
    for source, target, attributes in found.edges(data=True):
        one, other = str(source), str(target)
        link = _link(attributes, f"{place}: edge {cut(repr(one))} - {cut(repr(other))}")
        device, host = (one, other) if nodes[one].get("host") == other else (other, one)
        if nodes[device]["kind"] == "device" and nodes[device]["host"] == host and one != other:
            _add_to_device(nodes[device], link, place)
        else:
            duplex = "one_way" if found.is_directed() else "full"
            links.append({"source": one, "target": other, "duplex": duplex, **link})
    if found.is_directed():
        _check_both_ways(found, nodes, place)
    return specification(list(nodes.values()), links, place)


def _node(name: str, attributes: _Attributes, place: str) -> dict[str, Any]:
    kind = attributes.get("kind")
    if kind not in list(_KEYS):
        problem = f"node {cut(repr(name))} " + (f"is of kind {cut(repr(kind))}" if kind else "has no `kind`")
        raise InputError(problem, remedy=did_you_mean(str(kind), list(_KEYS)) if kind else WANTED, place=place)
    node = {"kind": kind, "name": name, **{key: attributes[key] for key in _KEYS[kind] if key in attributes}}
    if isinstance(node.get("cores"), str) and node["cores"].isdecimal() and len(node["cores"]) < 10:
        node["cores"] = int(node["cores"])  # GraphML of other tools: all attributes are text
    if kind == "device":
        node["device"] = _device(name, attributes, place)
    if kind in ("device", "nic") and not isinstance(node.get("host"), str):
        problem = f"{kind} {cut(repr(name))} has no `host`, or one that is not text"
        raise InputError(problem, remedy="give it the name of its host", place=place)
    return node


def _device(name: str, attributes: _Attributes, place: str) -> Any:
    rates = {key: attributes[key] for key in _RATES if key in attributes}
    device = attributes.get("device", "rates" if rates else None)
    if device is None or (rates and device != "rates") or (device == "rates" and not rates):
        problem = f"device {cut(repr(name))} has " + (
            "both `device` and rates" if rates else "no `device`, or no rates"
        )
        remedy = "give it `device`, cpu or cuda, or the rates `peak`, `memory_bandwidth` and, if any, `overhead`"
        raise InputError(problem, remedy=remedy, place=place)
    return rates or device


def _link(attributes: _Attributes, place: str) -> dict[str, str]:
    """Give bandwidth and latency as text with units, which the specification reads."""
    link = {}
    for name, plain, unit, quantity in _QUANTITIES:
        if (name in attributes) == (plain in attributes):
            problem = f"has both `{name}` and `{plain}`" if name in attributes else f"has no `{name}`"
            raise InputError(problem, remedy=f"give either `{name}` as text or `{plain}`, a number", place=place)
        value = attributes[name] if name in attributes else f"{attributes[plain]} {unit}"
        try:
            quantity.validate_python(value)
        except ValidationError as error:
            raise describe_validation(error, Document(value, {}, f"{place}: {name}")) from None
        link[name] = value
    return link


def _add_to_device(device: dict[str, Any], link: dict[str, str], place: str) -> None:
    if device.setdefault("link", link) != link:
        problem = f"the two edges between device {cut(repr(device['name']))} and its host differ"
        raise InputError(problem, remedy="give both the same bandwidth and latency", place=place)


def _check_both_ways(found: nx.Graph[Any], nodes: Mapping[str, _Attributes], place: str) -> None:
    edges = {(str(source), str(target)) for source, target in found.edges()}
    for name, node in nodes.items():
        if "link" in node and not {(name, node["host"]), (node["host"], name)} <= edges:
            problem = f"only one edge joins device {cut(repr(name))} and its host {cut(repr(node['host']))}"
            raise InputError(problem, remedy="add the edge of the other direction", place=place)
