"""What every importer needs: a bounded file as text, XML without traps, and the way to a specification."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from pydantic import ValidationError

from twinstep.errors import InputError
from twinstep.strict_yaml import Document, describe_validation
from twinstep.topologies.specification import Graph

LARGEST_BYTES = 16 * 2**20
"""The largest file that is read: 16 MiB."""
_MOST_ELEMENTS = 1_000_000
_DEEPEST = 64


def read_text(path: Path) -> str:
    """Read a UTF-8 file of at most 16 MiB. Raises InputError naming it where it cannot be read."""
    place = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError("is not a regular file", remedy="give the path of a topology file", place=place)
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError("no such file", remedy="check the path", place=place) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "check the path and its permissions"
        raise InputError(f"cannot be read: {reason}", remedy=remedy, place=place) from error
    if max(found.st_size, len(content)) > LARGEST_BYTES:
        problem = f"has {max(found.st_size, len(content))} bytes"
        raise InputError(problem, remedy=f"keep it within {LARGEST_BYTES} bytes", place=place)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.start} (0x{content[error.start]:02x}) is not UTF-8"
        raise InputError(problem, remedy="save the file as UTF-8 text", place=place, line=line) from error


def specification(nodes: Sequence[Mapping[str, Any]], links: Sequence[Mapping[str, Any]], place: str) -> Graph:
    """Make the specification of these nodes and links; `place` is what messages call the file.

    Raises InputError where one of them is not as `builder: graph` wants it.
    """
    data = {"builder": "graph", "nodes": list(nodes), "links": list(links)}
    try:
        return Graph.model_validate(data)
    except ValidationError as error:
        raise describe_validation(error, Document(data, {}, place), Graph) from None


@dataclass(frozen=True, slots=True)
class Element:
    """An XML element, without its text."""

    tag: str
    """The name, without a namespace's prefix."""
    attributes: Mapping[str, str]
    line: int
    """The line of the file, from 1."""
    children: list[Element] = field(default_factory=list)

    def all(self) -> Iterator[Element]:
        """Give the element and all below it, in the order of the file."""
        yield self
        for child in self.children:
            yield from child.all()


def parse_xml(text: str, place: str) -> Element:
    """Read XML to its root element; `place` is what messages call the file.

    A document type is refused, since entities that it declares can make a small file large or read other files.
    Raises InputError, naming the line, for it, for bad syntax, and for too many or too deep elements.
    """
    parser = expat.ParserCreate("utf-8")
    open_elements: list[Element] = []
    every: list[Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        if len(open_elements) >= _DEEPEST or len(every) >= _MOST_ELEMENTS:
            problem = f"has elements {_DEEPEST} deep, or more than {_MOST_ELEMENTS} of them"
            raise InputError(problem, remedy="give a file that only describes a topology", place=place, line=line)
        element = Element(name.rpartition(":")[2], attributes, line)
        if open_elements:
            open_elements[-1].children.append(element)
        open_elements.append(element)
        every.append(element)

    def doctype(*_: object) -> None:
        line = parser.CurrentLineNumber
        raise InputError("declares a document type", remedy="remove the <!DOCTYPE ...>", place=place, line=line)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_elements.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        remedy = "correct the syntax, or save the file again: it may be cut off"
        reason = expat.ErrorString(error.code)
        raise InputError(f"not XML: {reason}", remedy=remedy, place=place, line=error.lineno) from error
    return every[0]
