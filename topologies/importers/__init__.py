"""Topologies in formats of others, each made into a `builder: graph` specification.

- `graphml`, `node_link`: graphs of networkx and its kin, by way of `networkx_graph`
- `nvidia_smi`, `nccl_xml`: what NVIDIA's tools say of a machine, by way of `gpu_host` and `nccl_numbers`
- `source`: reading a file safely
"""

from __future__ import annotations

from pathlib import Path

from twinstep.topologies.importers import graphml, nccl_xml, node_link, nvidia_smi
from twinstep.topologies.importers.source import read_text
from twinstep.topologies.specification import Graph

_READERS = {
    ".graphml": graphml.read,
    ".json": node_link.read,
    ".txt": nvidia_smi.read,
    ".topo": nvidia_smi.read,
    ".xml": nccl_xml.read,
}
SUFFIXES = tuple(_READERS)
"""How the names of files that can be imported end."""


def read_import(path: Path) -> Graph:
    """Read a file of another format, which its suffix tells, and make its specification.

    Raises InputError naming file, place and remedy where it cannot be read or is not of that format.
    """
    return _READERS[path.suffix](read_text(path), str(path))
