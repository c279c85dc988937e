"""What is read out of NCCL's XML: its GPUs and NICs with their ways, and the attributes of its elements."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from twinstep.errors import InputError
from twinstep.topologies.importers.gpu_host import MeetingPoint
from twinstep.topologies.importers.source import Element
from twinstep.yaml_composer import cut

REMEDY = "let NCCL write the file again, with NCCL_TOPO_DUMP_FILE set"
"""What to do about a file that is not as NCCL writes it."""
_INTEGER = re.compile("0x[0-9a-fA-F]{1,8}|-?[0-9]{1,9}")
_DECIMAL = re.compile("[0-9]{1,9}(?:[.][0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Way:
    """The way from a PCIe device up to the link between the processors."""

    host: str
    points: tuple[MeetingPoint, ...]
    to_host_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A GPU of NCCL's."""

    element: Element
    bus: str
    way: Way
    rank: int
    capability: int
    """Compute capability times ten."""
    name: str


@dataclass(frozen=True, slots=True)
class FoundNic:
    """A port of a NIC."""

    name: str
    way: Way
    bandwidth_bytes_per_s: float
    latency_s: float
    """Of the network behind it."""
    direct: bool
    """Whether GPUs send through it without the host."""


@dataclass(slots=True)
class Machine:
    """What has been found so far."""

    place: str
    bridges: dict[int, str]
    """The names of PCIe bridges by the id() of their element; deeper ones come first in natural order."""
    hosts: dict[str, str] = field(default_factory=dict)
    buses: set[tuple[str, str]] = field(default_factory=set)
    gpus: list[FoundGpu] = field(default_factory=list)
    nics: list[FoundNic] = field(default_factory=list)
    processors: int = 0


def text_of(element: Element, name: str, place: str) -> str:
    """Give an attribute. Raises InputError where it is missing."""
    if name not in element.attributes:
        raise refused(element, f"<{element.tag}> has no {name}", place)
    return element.attributes[name]


def integer_of(element: Element, name: str, place: str, least: int = 0) -> int:
    """Give an attribute that is a whole number. Raises InputError where it is none, or less than `least`."""
    text = text_of(element, name, place)
    if not _INTEGER.fullmatch(text) or int(text, 16 if text.startswith("0x") else 10) < least:
        raise refused(element, f"{name} is {cut(repr(text))}, not a whole number of at least {least}", place)
    return int(text, 16 if text.startswith("0x") else 10)


def decimal_of(element: Element, name: str, place: str) -> float:
    """Give an attribute that is a number, 0 where it is missing. Raises InputError for another text."""
    text = element.attributes.get(name, "0")
    if not _DECIMAL.fullmatch(text):
        raise refused(element, f"{name} is {cut(repr(text))}, not a number of at least 0", place)
    return float(text)


def refused(element: Element, problem: str, place: str) -> InputError:
    """Make the error for a bad element."""
    return InputError(problem, remedy=f"correct it, or {REMEDY}", place=place, line=element.line)
