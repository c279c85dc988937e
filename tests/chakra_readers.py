"""Two readers of Chakra traces that share nothing with the exporter: the wire format by hand, and Chakra's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstep.chakra.schema import Node, NodeType


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size, at = varint(data, at)
        assert at + size <= len(data)
        yield data[at : at + size]
        at += size


def fields(message: bytes) -> dict[int, list[Any]]:
    """Read a message by the wire format alone: varints and what has a length, by field number."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        assert key & 7 in (0, 2), "neither a varint nor a field with a length"
        value: int | bytes
        value, at = varint(message, at)
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found


VALUES = {
    7: ("comm_src", "comm_dst", "comm_tag"),
    9: ("num_ops", "comm_type", "comm_size"),
    13: ("tensor_size",),
    27: ("is_cpu_op",),
    29: ("pg_name",),
}
"""Which number of AttributeProto's oneof the Chakra feeder reads an attribute from."""


def read_by_hand(path: Path) -> list[Node]:
    metadata, *rest = messages(path.read_bytes())
    assert fields(metadata) == {1: [b"0.0.4"]}
    nodes = []
    for found in map(fields, rest):
        assert set(found) <= {1, 2, 3, 5, 7, 10}
        packed, at, before = b"".join(found.get(5, [])), 0, []
        while at < len(packed):
            dependency, at = varint(packed, at)
            before.append(dependency)
        attributes = {}
        for attribute in map(fields, found[10]):
            name = attribute.pop(1)[0].decode()
            ((number, (value,)),) = attribute.items()
            assert name in VALUES[number]
            attributes[name] = value.decode() if number == 29 else bool(value) if number == 27 else value
        (number,), (name,), (kind,), (micros,) = found.get(1, [0]), found[2], found[3], found.get(7, [0])
        nodes.append(Node(number, name.decode(), NodeType(kind), tuple(before), micros, attributes))
    return nodes


def read_by_chakra(path: Path) -> list[Node]:
    """Read a file as chakra_jsonizer does, by Chakra's own classes."""
    reason = "the package chakra of mlcommons is not installed: it is on GitHub only"
    pb2 = pytest.importorskip("chakra.schema.protobuf.et_def_pb2", reason=reason)
    protolib = pytest.importorskip("chakra.src.third_party.utils.protolib", reason=reason)
    nodes = []
    with protolib.openFileRd(str(path)) as file:
        metadata = pb2.GlobalMetadata()
        assert protolib.decodeMessage(file, metadata)
        assert metadata.version == "0.0.4"
        node = pb2.Node()
        while protolib.decodeMessage(file, node):
            attributes = {each.name: getattr(each, each.WhichOneof("value")) for each in node.attr}
            kind = NodeType[pb2.NodeType.Name(node.type).removesuffix("_NODE")]
            assert not node.ctrl_deps
            nodes.append(Node(node.id, node.name, kind, tuple(node.data_deps), node.duration_micros, attributes))
    return nodes
