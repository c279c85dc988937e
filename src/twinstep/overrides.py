"""Overrides: values of a scenario that the command line sets, or that a sweep does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from twinstep import strict_yaml
from twinstep.errors import InputError
from twinstep.strict_yaml import Document
from twinstep.yaml_composer import cut

_MOST_KEYS_ABOVE = 20


def variation(text: str) -> tuple[str, list[Any]]:
    """Read `key.path=value,value`: the keys, and their values. Raises InputError where it is none."""
    place = f"--vary {cut(text)}"
    keys, separator, values = text.partition("=")
    if not separator or not values.strip():
        raise InputError("has no values", remedy="write for example --vary partition.data=2,4,8", place=place)
    return keys.strip(), strict_yaml.parse(f"[{values}]", f"the values of {place}").data


def override(document: Document, text: str) -> Document:
    """Set one value, as `key.path=value` says it. Raises InputError where it cannot."""
    place = f"--set {cut(text)}"
    path, separator, value = text.partition("=")
    if not separator or not _is_path(path):
        raise InputError("not an override", remedy="write for example --set partition.data=4", place=place)
    return set_value(document, path, strict_yaml.parse(value, f"the value of {place}").data, place)


def _is_path(path: str) -> bool:
    keys = path.strip().split(".")
    return all(keys) and len(keys) <= _MOST_KEYS_ABOVE + 1


def set_value(document: Document, path: str, value: Any, place: str) -> Document:
    """Set one value; mappings that lead to it are made where they are missing. Raises InputError where it cannot."""
    if not _is_path(path):
        raise InputError(f"{cut(repr(path))} is not a key", remedy="write for example partition.data", place=place)
    *above, last = path.strip().split(".")
    data = copy.deepcopy(document.data)
    parent: Any = data
    for depth, name in enumerate(above):
        key = _key_in(parent, name, above[:depth], place)
        if isinstance(parent, dict):
            parent.setdefault(key, {})
        parent = parent[key]
    parent[_key_in(parent, last, above, place)] = value
    return Document(data, document.lines, f"{place} on {document.place}")


def _key_in(parent: Any, name: str, above: Sequence[str], place: str) -> str | int:
    """Give the key of a mapping, or the index in a list, that `name` means; `above` leads to the parent."""
    if isinstance(parent, dict):
        return name
    where = ".".join(above) or "the scenario"
    if not isinstance(parent, list):
        problem = f"{where} is {cut(repr(parent))}, which has no keys"
        raise InputError(problem, remedy="set that key itself", place=place)
    if name not in map(str, range(len(parent))):
        problem = f"{where} is a list of {len(parent)}, and {cut(repr(name))} is not the index of one of them"
        raise InputError(problem, remedy="give an index from 0 on, or set the list itself", place=place)
    return int(name)
