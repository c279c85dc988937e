"""Schema: nodes as the bytes of a Chakra execution trace.

A trace is a row of protocol buffer messages, each preceded by its length as a varint: one `GlobalMetadata`, then the
nodes. The messages are built here from the names and numbers of the fields that we write; readers take all others as
unset. Source: mlcommons/chakra, schema/protobuf/et_def.proto (names, numbers) and src/third_party/utils/protolib.py
(lengths), schema version 0.0.4.

The kind of number that an attribute is written as matters: Chakra's own feeder reads `comm_size` only as int64,
`tensor_size` only as uint64 (src/feeder/et_feeder_node.cpp); ASTRA-sim's feeder takes any integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

from twinstep.errors import InputError

SCHEMA_VERSION = "0.0.4"


class NodeType(IntEnum):
    """What a node is: Chakra's numbers."""

    COMP = 4
    COMM_SEND = 5
    COMM_RECV = 6
    COMM_COLL = 7


COMM_TYPES = {
    "all_reduce": 0,
    "reduce": 1,
    "all_gather": 2,
    "gather": 3,
    "scatter": 4,
    "broadcast": 5,
    "all_to_all": 6,
    "reduce_scatter": 7,
    "barrier": 9,
}
"""Chakra's number of each kind of collective."""

_VALUE_FIELDS = {
    "is_cpu_op": "bool_val",
    "num_ops": "int64_val",
    "tensor_size": "uint64_val",
    "comm_type": "int64_val",
    "comm_size": "int64_val",
    "comm_src": "int32_val",
    "comm_dst": "int32_val",
    "comm_tag": "int32_val",
    "pg_name": "string_val",
}
"""Which field of an attribute holds its value, by the attribute's name."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a rank."""

    id: int
    name: str
    type: NodeType
    depends_on: tuple[int, ...]
    """The ids of the nodes that must be done before this one begins."""
    duration_micros: int = 0
    """Microseconds that it takes; 0 where the trace does not say."""
    attributes: Mapping[str, int | bool | str] = field(default_factory=dict)


class _Field(NamedTuple):
    name: str
    number: int
    kind: str
    """The name of a scalar type, or of a message of ours."""
    repeated: bool = False


_ATTRIBUTE = (
    _Field("name", 1, "string"),
    _Field("int32_val", 7, "int32"),
    _Field("int64_val", 9, "int64"),
    _Field("uint64_val", 13, "uint64"),
    _Field("bool_val", 27, "bool"),
    _Field("string_val", 29, "string"),
)
_METADATA = (_Field("version", 1, "string"),)
_NODE = (
    _Field("id", 1, "uint64"),
    _Field("name", 2, "string"),
    _Field("type", 3, "int32"),  # an enumeration, which is the same on the wire
    _Field("data_deps", 5, "uint64", repeated=True),
    _Field("duration_micros", 7, "uint64"),
    _Field("attr", 10, "AttributeProto", repeated=True),
)


class Encoder:
    """Writes traces. Raises InputError where protobuf is not installed."""

    def __init__(self) -> None:
        self._attribute, self._metadata, self._node = _messages()

    def trace(self, nodes: Sequence[Node]) -> bytes:
        """Give the content of a rank's file.

        >>> Encoder().trace([])
        b'\\x07\\n\\x050.0.4'
        """
        metadata = self._metadata(version=SCHEMA_VERSION)
        return b"".join(map(_with_length, (metadata.SerializeToString(), *map(self._encode, nodes))))

    def _encode(self, node: Node) -> bytes:
        message = self._node(
            id=node.id,
            name=node.name,
            type=int(node.type),
            data_deps=node.depends_on,
            duration_micros=node.duration_micros,
            attr=[self._attribute(**{"name": name, _VALUE_FIELDS[name]: value})
                  for name, value in node.attributes.items()],
        )  # fmt: skip
        return bytes(message.SerializeToString(deterministic=True))


def _with_length(message: bytes) -> bytes:
    """Precede a message by its length: seven bits a byte, the lowest first, the high bit set where more follow.

    >>> _with_length(bytes(300))[:2].hex()
    'ac02'
    """
    length, prefix = len(message), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message


@cache
def _messages() -> tuple[Any, Any, Any]:
    """Build the classes of AttributeProto, GlobalMetadata and Node, in a pool of their own."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise InputError(
            f"writing Chakra traces needs the package protobuf, which cannot be imported ({error})",
            remedy="pip install twinstep[chakra]",
        ) from None
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")
    for name, fields in (("AttributeProto", _ATTRIBUTE), ("GlobalMetadata", _METADATA), ("Node", _NODE)):
        _declare(file.message_type.add(name=name), fields)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    attribute, metadata, node = (
        message_factory.GetMessageClass(find(f"ChakraProtoMsg.{name}"))
        for name in ("AttributeProto", "GlobalMetadata", "Node")
    )
    return attribute, metadata, node


def _declare(message: Any, fields: Sequence[_Field]) -> None:
    """Add the fields to a message's description; an attribute's values exclude one another, and 0 is one of them."""
    for each in fields:
        declared = message.field.add(name=each.name, number=each.number)
        declared.label = declared.LABEL_REPEATED if each.repeated else declared.LABEL_OPTIONAL
        scalar = getattr(declared, f"TYPE_{each.kind.upper()}", None)
        declared.type = declared.TYPE_MESSAGE if scalar is None else scalar
        if scalar is None:
            declared.type_name = f".ChakraProtoMsg.{each.kind}"
        if each.name.endswith("_val"):
            if not message.oneof_decl:
                message.oneof_decl.add(name="value")
            declared.oneof_index = 0
