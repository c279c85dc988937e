"""The composer of strict YAML: parser events in, plain data and the line of every value out.

It builds one value at a time, without recursion, and stops at the first trap. Plain scalars are read as in
the core schema of YAML 1.2; numbers that readers disagree about (`010`) or that are not finite are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from twinstep.errors import InputError

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead from the root to a value."""

_NodeEvent = yaml.ScalarEvent | yaml.CollectionStartEvent

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Control characters and what UTF-8 cannot hold; tab and line feed are fine."""

_MOST_VALUES = 100_000
_DEEPEST = 20
_MOST_DIGITS = 18
_LONGEST_NUMBER = 64
_LONGEST_SHOWN = 60

_INTEGER = re.compile("[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TRAP = re.compile(r"[-+]?0[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: Mapping[str, bool | None] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
)


def cut(text: str) -> str:
    """Shorten a text for a message to at most 60 characters.

    >>> len(cut("x" * 1000))
    60
    """
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _is_plain(event: yaml.ScalarEvent) -> bool:
    """Tell whether a scalar is neither quoted nor a block, so that it need not be text."""
    return event.implicit[0]


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    content: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None
    """The key that waits for its value."""


@dataclass(slots=True)
class Composer:
    """Builds plain data from parser events, in order."""

    place: str
    """What to call the file in messages."""
    root: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """The line, from 1, of each key and list item; the root's path is ()."""
    _stack: list[_Open] = field(default_factory=list)

    def take(self, event: yaml.Event) -> None:
        """Take the next event. Raises InputError for anything but plain data."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            name = cut(str(event.anchor))
            self._refuse(f"the alias *{name}", "write the value itself: aliases are not read", line)
        if isinstance(event, _NodeEvent):
            self._node(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()
        elif isinstance(event, yaml.DocumentStartEvent) and self.lines:
            self._refuse("a second document begins", "keep one document a file: remove the '---'", line)

    def _refuse(self, problem: str, remedy: str, line: int) -> NoReturn:
        raise InputError(problem, remedy=remedy, place=self.place, line=line)

    def _node(self, event: _NodeEvent, line: int) -> None:
        if event.anchor is not None:
            self._refuse(f"the anchor &{cut(event.anchor)}", "remove it: anchors are not read", line)
        if event.tag is not None:
            self._refuse(f"the tag {cut(event.tag)}", "remove it: tags are not read", line)
        top = self._stack[-1] if self._stack else None
        if top and isinstance(top.content, dict) and top.key is None:
            self._key(event, top, top.content, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._value(event, line), line)
        else:
            content: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._stack.append(_Open(content, self._add(content, line)))
            if len(self._stack) > _DEEPEST:
                self._refuse(f"nested deeper than {_DEEPEST} levels", "flatten it", line)

    def _key(self, event: _NodeEvent, top: _Open, content: dict[str, Any], line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse("a key that is a list or a mapping", "give the key a name", line)
        key = self._value(event, line)
        if not isinstance(key, str):
            self._refuse(f"the key {cut(event.value)!r} is not text", "put the key in quotes", line)
        if key == "<<" and _is_plain(event):
            self._refuse("the merge key <<", "write the keys themselves: merging is not supported", line)
        path = (*top.path, key)
        if key in content:
            first = self.lines[path]
            self._refuse(f"the key {cut(key)!r} is already on line {first}", "remove one of the two", line)
        self.lines[path] = line
        top.key = key

    def _add(self, value: Any, line: int) -> KeyPath:
        """Put a value where it belongs; give its path."""
        if len(self.lines) > _MOST_VALUES:
            self._refuse(f"more than {_MOST_VALUES} values", "split the file, or use a builder", line)
        if not self._stack:
            self.root, path = value, KeyPath()
        elif isinstance(content := self._stack[-1].content, list):
            path = (*self._stack[-1].path, len(content))
            content.append(value)
        else:
            key = str(self._stack[-1].key)
            content[key], self._stack[-1].key = value, None
            return (*self._stack[-1].path, key)
        self.lines[path] = line
        return path

    def _value(self, event: yaml.ScalarEvent, line: int) -> str | int | float | bool | None:
        text = event.value
        if not _is_plain(event):
            if found := UNPRINTABLE.search(text):
                self._refuse(f"an escape makes the control character {found.group()!r}", "remove it", line)
            return str(text)
        if text in _WORDS:
            return _WORDS[text]
        if _TRAP.fullmatch(text):
            remedy = "write the number in decimal and without leading zeros, or quote it to make it text"
            self._refuse(f"{cut(text)} can be read as octal, hexadecimal or decimal", remedy, line)
        if _INTEGER.fullmatch(text):
            if len(text.lstrip("+-")) > _MOST_DIGITS:
                self._refuse(f"{cut(text)} has more than {_MOST_DIGITS} digits", "shorten or quote it", line)
            return int(text)
        if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text):
            value = float(text) if len(text) <= _LONGEST_NUMBER and _FLOAT.fullmatch(text) else math.inf
            if not math.isfinite(value):
                self._refuse(f"{cut(text)} is not a finite number", "write a finite one, or quote it", line)
            return value
        return str(text)
