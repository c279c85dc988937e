"""Node-link JSON as networkx writes it: {"directed": false, "nodes": [{"id": ...}], "edges": [{"source": ...}]}.

The attributes are those of GraphML (`graphml`). The list of edges may have the key `links`, as networkx before 3.4
wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import networkx as nx

from twinstep.errors import InputError
from twinstep.topologies.importers.networkx_graph import specification_of
from twinstep.topologies.specification import Graph
from twinstep.yaml_composer import cut

_REMEDY = "write it with json.dumps(networkx.node_link_data(graph))"


def read(text: str, place: str) -> Graph:
    """Make the specification of a node-link JSON text; the devices are in the order of the file.

    `place` is what messages call the file. Raises InputError naming node or edge.
    """
    try:
        return _read(text, place)
    except RecursionError as error:
        raise InputError("is nested too deep", remedy=_REMEDY, place=place) from error


def _read(text: str, place: str) -> Graph:
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", remedy=_REMEDY, place=place, line=error.lineno) from error
    except ValueError as error:  # NaN, Infinity, or a number of more digits than Python converts
        raise InputError(f"not JSON: {cut(str(error))}", remedy=_REMEDY, place=place) from error
    edges = _checked(data, place)
    try:
        found = nx.node_link_graph(data, multigraph=False, edges=edges)
    except (nx.NetworkXError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"networkx cannot read it: {cut(repr(error))}", remedy=_REMEDY, place=place) from error
    return specification_of(found, place)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _checked(data: Any, place: str) -> str:
    """Refuse what is not node-link data, or what networkx would join or make up; give the key of the edges."""
    edges = "links" if isinstance(data, dict) and "links" in data and "edges" not in data else "edges"
    for key in ("nodes", edges):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise InputError(f"has no list {key!r} at the top", remedy=_REMEDY, place=place)
        for index, item in enumerate(data[key]):
            if not isinstance(item, dict):
                raise InputError(f"{key}[{index}] is no object", remedy=_REMEDY, place=place)
    if data.get("multigraph"):
        raise InputError("is a multigraph", remedy="write a graph without parallel edges", place=place)
    if not isinstance(data.get("directed", False), bool) or not isinstance(data.get("graph", {}), dict):
        raise InputError("`directed` is not true or false, or `graph` no object", remedy=_REMEDY, place=place)
    names = [_name(node.get("id"), f"nodes[{index}].id", place) for index, node in enumerate(data["nodes"])]
    _check_unique(names, "nodes", place)
    known = set(names)
    pairs = []
    for index, edge in enumerate(data[edges]):
        ends = [_name(edge.get(end), f"{edges}[{index}].{end}", place) for end in ("source", "target")]
        for end in ends:
            if end not in known:
                problem = f"{edges}[{index}] names the node {cut(repr(end))}, which is not listed"
                raise InputError(problem, remedy="add it to `nodes`", place=place)
        pairs.append(tuple(ends) if data.get("directed") else tuple(sorted(ends)))
    _check_unique(pairs, edges, place)
    return edges


def _name(value: Any, where: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where} is {cut(repr(value))}", remedy="name nodes by text or whole numbers", place=place)
    return str(value)


def _check_unique(items: Sequence[Any], key: str, place: str) -> None:
    seen = set()
    for index, item in enumerate(items):
        if item in seen:
            raise InputError(f"{key}[{index}] is there already: {cut(repr(item))}", remedy="remove one", place=place)
        seen.add(item)
