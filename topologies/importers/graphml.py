"""GraphML, read by networkx: nodes and edges with attributes that say what they are.

Nodes have `kind`: host (with `cores`), device (with `host` and `device`, or the rates `peak`, `memory_bandwidth`
and `overhead`), nic (with `host`), switch or storage. Edges have `bandwidth` and `latency` as text with a unit, or
`bandwidth_bytes_per_s` and `latency_s`. An undirected edge is a full-duplex link. Other attributes are passed over.
"""

from __future__ import annotations

import warnings
from collections import Counter

import networkx as nx

from twinstep.errors import InputError
from twinstep.topologies.importers.networkx_graph import specification_of
from twinstep.topologies.importers.source import Element, parse_xml
from twinstep.topologies.specification import Graph
from twinstep.yaml_composer import cut


def read(text: str, place: str) -> Graph:
    """Make the specification of a GraphML text; the devices are in the order of the file.

    `place` is what messages call the file. Raises InputError naming node, edge or line.
    """
    root = parse_xml(text, place)
    if root.tag != "graphml":
        remedy = "give a GraphML file, or end the name of one of NCCL's in .xml"
        raise InputError(
            f"begins with {cut(repr(root.tag))}, not with <graphml>", remedy=remedy, place=place, line=root.line
        )
    _check_names(list(root.all()), place)
    try:
        with warnings.catch_warnings(action="ignore"):  # of keys without a type, which it takes for text
            found = nx.parse_graphml(text)
    except Exception as error:  # whatever the reader stumbles over: it raises KeyError, TypeError and many others
        problem = f"networkx cannot read it: {cut(repr(error))}"
        raise InputError(problem, remedy="save it again as plain GraphML, without ports", place=place) from error
    return specification_of(found, place)


def _check_names(elements: list[Element], place: str) -> None:
    """Refuse what networkx would join or make up without a word."""
    for tag in ("graph", "node", "edge", "hyperedge"):
        lines = {id(element): element for element in elements if element.tag == tag}
        if (tag == "graph" and len(lines) != 1) or (tag == "hyperedge" and lines):
            problem = f"has {len(lines)} elements <{tag}>"
            raise InputError(problem, remedy="give one graph, without hyperedges", place=place)
    named = Counter(element.attributes.get("id", "") for element in elements if element.tag == "node")
    for element in elements:
        name = element.attributes.get("id", "")
        if element.tag == "node" and (not name or named[name] > 1):
            problem = f"node id {cut(repr(name))} is given {named[name]} times" if name else "a <node> has no id"
            raise InputError(problem, remedy="give each node its own id", place=place, line=element.line)
        for end in ("source", "target"):
            if element.tag == "edge" and element.attributes.get(end, "") not in named:
                problem = f"the {end} of an edge is {cut(repr(element.attributes.get(end, '')))}, which is no node"
                raise InputError(problem, remedy="name a node by its id", place=place, line=element.line)
