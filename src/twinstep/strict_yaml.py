"""Strict YAML: the only place that reads a file written by a user.

YAML 1.1 reads `no` as false, `12:30` as 750, `010` as 8 and `5e-6` as text; the last of two equal keys wins.
Here plain scalars are read as in the core schema of YAML 1.2, whatever is likely to be a trap is refused, and
whatever can make a small file large (aliases), slow (depth, size) or active (tags) is refused too.
Every value keeps its line, so that an error that is found later can still name it.
"""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from twinstep.errors import InputError
from twinstep.yaml_composer import UNPRINTABLE, Composer, KeyPath, cut

_Schema = Mapping[str, Any]
_LARGEST_BYTES = 2**20
_MOST_ERRORS = 5
_MOST_CHOICES = 12
_DIRECTIVE = re.compile("^%", re.MULTILINE)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TYPES = {
    "int_type": ("must be a whole number", "write digits alone, for example 4"),
    "float_type": ("must be a number", "write it without quotes or a unit, for example 0.5"),
    "string_type": ("must be text", "put it in quotes"),
    "bool_type": ("must be true or false", "write true or false without quotes"),
    **dict.fromkeys(("list_type", "tuple_type"), ("must be a list", "write [first, second]")),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type", "dataclass_type"),
        ("must be a mapping", "write `key: value` lines below it"),
    ),
}
_REMEDY = re.compile(": (?=(?:write|use|give|choose|add|remove|set|lower|raise|make|keep|leave|name|rename|put) )")


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML file holds, with the line of every value."""

    data: Any
    """Plain dict, list, str, int, float, bool and None, nothing else."""
    lines: Mapping[KeyPath, int]
    """The line, from 1, of each key and list item by its path from the root; the root's is ()."""
    place: str
    """What to call the file in messages."""

    def line_of(self, path: KeyPath) -> int | None:
        """Give the line of a key path, or of its nearest ancestor that has one.

        >>> parse("sync:\\n  overlap: true", "plan.yaml").line_of(("sync", "bucket"))
        1
        """
        return next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)


def read(path: Path) -> Document:
    """Read a YAML file of at most 1 MiB.

    Raises InputError where it cannot be read or holds anything but plain data, naming line and remedy.
    """
    place = str(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise InputError(f"is {what}", remedy="give the path of a YAML file", place=place)
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError("no such file", remedy="check the path", place=place) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot be read: {reason}", remedy="check the path and its permissions", place=place
        ) from error
    if max(found.st_size, len(content)) > _LARGEST_BYTES:
        size_bytes = max(found.st_size, len(content))
        raise InputError(f"has {size_bytes} bytes", remedy=f"keep it within {_LARGEST_BYTES} bytes", place=place)
    try:
        return parse(content.decode("utf-8-sig"), place)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.start} (0x{content[error.start]:02x}) is not UTF-8"
        raise InputError(problem, remedy="save the file as UTF-8", place=place, line=line) from error


def parse(text: str, place: str) -> Document:
    """Read YAML from text; `place` is what messages call it.

    >>> parse("{steps: 20, lr: 5e-6, when: 12:30, fast: no}", "plan.yaml").data
    {'steps': 20, 'lr': 5e-06, 'when': '12:30', 'fast': 'no'}

    Raises InputError where the text holds anything but plain data, naming line and remedy.
    """
    composer = Composer(place)
    if len(text) > _LARGEST_BYTES:
        raise InputError(f"has {len(text)} characters", remedy=f"keep it within {_LARGEST_BYTES}", place=place)
    if found := UNPRINTABLE.search(text):
        _refuse_at(text, found.start(), f"control character {found.group()!r}", "remove it", place)
    if found := _DIRECTIVE.search(text):
        _refuse_at(text, found.start(), "a line starts with '%', a YAML directive", "remove the line", place)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.YAMLError as error:
        raise _syntax_error(error, place) from error
    except (ValueError, OverflowError) as error:  # the parser without libyaml: an escape beyond Unicode
        raise InputError(f"not YAML: {error}", remedy="correct the syntax", place=place) from error
    if composer.root is None:
        raise InputError("holds nothing", remedy="write keys and values: `key: value`", place=place, line=1)
    return Document(composer.root, composer.lines, place)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Say which words are known, at most twelve, and which of all of them `word` may have meant.

    >>> did_you_mean("rign", ["ring", "star"])
    "did you mean 'ring'? known: ring, star"
    """
    near = difflib.get_close_matches(word, known, n=1)
    shown = [*known[:_MOST_CHOICES], *(["..."] if len(known) > _MOST_CHOICES else [])]
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(shown)}"


def _refuse_at(text: str, position: int, problem: str, remedy: str, place: str) -> NoReturn:
    raise InputError(problem, remedy=remedy, place=place, line=text.count("\n", 0, position) + 1)


def _syntax_error(error: yaml.YAMLError, place: str) -> InputError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    problem = ", ".join(part for part in parts if part) or str(error)
    where, line = (f" (column {mark.column + 1})", mark.line + 1) if mark else ("", None)
    remedy = "correct the syntax: look for a missing quote, bracket or colon, a tab, or uneven indentation"
    return InputError(f"not YAML: {problem}{where}", remedy=remedy, place=place, line=line)


def describe_validation(error: ValidationError, document: Document, model: Any = None) -> InputError:
    """Turn the first errors of a pydantic validation of `document.data` into one InputError.

    Each names file, line, key path, value and remedy. `model` is the type that was validated: where it is
    given, an unknown key is answered with the known ones. What a validator's ValueError says after ": write"
    (or use, give, choose, add, ...) is taken for its remedy.
    """
    errors = sorted(error.errors(include_url=False), key=_by_cause)
    schema = _schema_of(model) if model is not None else {}
    first, *others = (_describe(details, document, schema) for details in errors[:_MOST_ERRORS])
    problem, remedy, line = first
    also = [str(InputError(p, remedy=r, place=document.place, line=n)) for p, r, n in others]
    more = [f"and {len(errors) - _MOST_ERRORS} more"] if len(errors) > _MOST_ERRORS else []
    return InputError(problem, remedy="\n".join([remedy, *also, *more]), place=document.place, line=line)


@cache
def _schema_of(model: Any) -> _Schema:
    """Give the JSON schema of a type, made once: a whole scenario's takes more time than all else of a message."""
    return TypeAdapter(model).json_schema()


def _by_cause(details: ErrorDetails) -> bool:
    """Put missing keys last: a misspelt key is the cause of many of them."""
    return details["type"] == "missing"


def _describe(details: ErrorDetails, document: Document, schema: _Schema) -> tuple[str, str, int | None]:
    """Give the problem of one error, its remedy and its line."""
    loc, kind = details["loc"], details["type"]
    if kind in ("missing", "extra_forbidden"):
        path: KeyPath = (*_existing(loc[:-1], document.data), loc[-1])
    else:
        path = _existing(loc, document.data)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, details["ctx"]["discriminator"].strip("'"))
    problem, remedy = _wording(details, _known_at(schema, loc[:-1]), _tags_at(schema, loc))
    if not loc and kind == "value_error":  # an error of several sections: its text begins with the key that it is about
        return problem, remedy, document.line_of(tuple(problem.split(" ")[0].split(".")))
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{cut(part)}" for part in path).lstrip(".")
    if kind == "value_error" and problem.startswith(f"{name}."):  # an error of several keys of a section, likewise
        return problem, remedy, document.line_of(tuple(problem.split(" ")[0].split(".")))
    return f"{name}: {problem}" if name else problem, remedy, document.line_of(path)


def _existing(loc: KeyPath, data: Any) -> KeyPath:
    """Give the part of `loc` that leads through `data`: pydantic's paths also hold the tags of unions."""
    if not loc or not isinstance(data, dict | list):
        return ()
    without = _existing(loc[1:], data)
    below = dict(enumerate(data)) if isinstance(data, list) else data
    if loc[0] not in below:
        return without
    taken = (loc[0], *_existing(loc[1:], below[loc[0]]))
    return max(taken, without, key=lambda path: (path[-1:] == loc[-1:], len(path)))


def _wording(details: ErrorDetails, keys: Sequence[str], tags: Sequence[str]) -> tuple[str, str]:
    """Say in plain words what is wrong and what to do; `keys` and `tags` are the words known there."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    key = str(details["loc"][-1]) if details["loc"] else ""
    if kind == "extra_forbidden":
        if key in keys:  # of another kind of section, which only its other keys tell apart
            return "does not go with the other keys here", "remove it"
        return "unknown key", did_you_mean(key, keys) if keys else "remove it"
    if kind == "missing":
        return "missing", f"add the key {key!r}"
    if kind == "union_tag_not_found":
        choice = f"; {did_you_mean('', tags)}" if tags else ""
        return "missing", f"add the key {context['discriminator']}{choice}"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        known = re.findall("'([^']*)'", context.get("expected") or context["expected_tags"])
        word = context.get("tag", value)
        return f"{cut(repr(word))} is not known", did_you_mean(str(word), known)
    return _wording_of_value(details)


def _wording_of_value(details: ErrorDetails) -> tuple[str, str]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    shown = "an empty value" if value is None else cut(repr(value))
    if kind in _TYPES:
        what, remedy = _TYPES[kind]
        return f"{shown} {what}", remedy
    text = str(context["error"]) if "error" in context else details["msg"].replace("Input should", "must")
    problem, remedy = (*_REMEDY.split(text, maxsplit=1), "correct the value")[:2]
    if isinstance(value, dict | list):
        return problem, remedy
    return f"{shown}: {problem}" if "error" in context else f"{shown} {problem}", remedy


def _known_at(schema: _Schema, loc: KeyPath) -> list[str]:
    """Give the keys that a JSON schema knows at a path; the path also holds the tags of unions."""
    return list(dict.fromkeys(key for one in _schemas_at(schema, loc) for key in one.get("properties", {})))


def _tags_at(schema: _Schema, loc: KeyPath) -> list[str]:
    """Give the tags that a JSON schema's unions choose by at a path."""
    return [tag for one in _schemas_at(schema, loc) for tag in one.get("discriminator", {}).get("mapping", {})]


def _schemas_at(schema: _Schema, loc: KeyPath) -> list[_Schema]:
    here = [schema]
    for part in loc:
        here = [below for one in _alternatives(here, schema) for below in _below(one, part)] or here
    return list(_alternatives(here, schema))


def _alternatives(schemas: Sequence[_Schema], root: _Schema) -> Iterator[_Schema]:
    """Give the schemas and all those that they refer to or choose from."""
    for schema in schemas:
        yield schema
        chosen = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
        if "$ref" in schema:
            chosen.append(root["$defs"][schema["$ref"].rpartition("/")[2]])
        yield from _alternatives(chosen, root)


def _below(schema: _Schema, part: str | int) -> Iterator[_Schema]:
    """Give what a schema says of one key, list position or tag of a union."""
    if isinstance(part, int):
        yield from [schema["items"]] if "items" in schema else schema.get("prefixItems", ())[part : part + 1]
    elif tagged := schema.get("discriminator", {}).get("mapping", {}).get(part):
        yield {"$ref": tagged}
    elif part in schema.get("properties", {}):
        yield schema["properties"][part]
    elif isinstance(schema.get("additionalProperties"), dict):
        yield schema["additionalProperties"]
