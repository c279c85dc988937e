"""Axes: which values of which plan keys are swept.

A section `sweep:` lists values for keys of the plan; keys that are separated by commas vary together:

    sweep:
      partition.data: [2, 4, 8]
      sync.method: [all_reduce, parameter_server]
      topology.hosts, sync.servers.count: [[9, 1], [12, 4]]
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, RootModel, field_validator

from twinstep.units import parse_quantity

MOST_POINTS = 1000

Setting = tuple[str, Any]
"""A key of the plan, and its value."""


class Sweep(RootModel[dict[str, list[Any]]]):
    """Values of keys of the plan, of which `twinstep sweep` predicts all combinations: `partition.data: [2, 4, 8]`.
    Keys that are separated by commas vary together: `partition.data, topology.hosts: [[2, 3], [4, 5]]`.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    @field_validator("root")
    @classmethod
    def _check(cls, values: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if not values:
            raise ValueError("there is no key: write for example `partition.data: [2, 4, 8]`")
        axes = [axis(names, listed) for names, listed in values.items()]
        keys = [key for each in axes for key in each.keys]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"the key {twice} is there twice: remove one of the two")
        if (points := math.prod(len(each.values) for each in axes)) > MOST_POINTS:
            raise ValueError(f"there are {points} combinations: give values for {MOST_POINTS} at most")
        return values

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Give what varies, in the order of the file."""
        return tuple(axis(names, values) for names, values in self.root.items())

    def varied(self, changes: Mapping[str, list[Any]], fixed: Collection[str] = ()) -> dict[str, list[Any]]:
        """Put other values in the place of those with the same keys, or after all; leave out keys that are `fixed`.

        >>> Sweep({"a": [1, 2], "b, c": [[3, 4]], "e": [7]}).varied({"c": [5], "d": [6]}, fixed=["e"])
        {'a': [1, 2], 'c': [5], 'd': [6]}
        """
        found: dict[str, list[Any]] = {}
        for names, values in self.root.items():
            if set(fixed) & set(_keys(names)):
                continue
            same = [other for other in changes if set(_keys(other)) & set(_keys(names))]
            found |= {other: changes[other] for other in same} if same else {names: values}
        return found | dict(changes)


@dataclass(frozen=True)
class Axis:
    """One key, or several that vary together, with its values."""

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    """One value a key."""

    @property
    def name(self) -> str:
        """Name what varies, e.g. `partition.data`."""
        return ", ".join(self.keys)

    @property
    def short_name(self) -> str:
        """Name what varies by the last parts of the keys, e.g. `data`."""
        return ", ".join(key.rpartition(".")[2] for key in self.keys)

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The first key's values as numbers in base units; empty where they are none, or of different units."""
        found = [number(values[0]) for values in self.values]
        units = {each[1] if each else None for each in found}
        return tuple(each[0] for each in found if each) if len(units) == 1 and None not in units else ()

    @property
    def unit(self) -> str:
        """The base unit of the numbers; empty where they have none."""
        known = number(self.values[0][0])
        return known[1] if known else ""

    @property
    def is_whole(self) -> bool:
        """Tell whether values between those that are given make sense: one key with whole numbers."""
        return len(self.keys) == 1 and all(type(value) is int for (value,) in self.values)

    @property
    def is_powers(self) -> bool:
        """Tell whether the numbers are the smallest of them times powers of 2, or of 10: a logarithmic axis.

        >>> [axis("a", values).is_powers for values in ([4, 8, 32], ["1 ms", "10 ms", "1 s"], [1, 2, 3])]
        [True, True, False]
        """
        least = min(self.numbers, default=0.0)
        if least <= 0 or len(set(self.numbers)) < 3:
            return False
        return any(
            all(math.isclose(log(each / least), round(log(each / least)), abs_tol=1e-9) for each in self.numbers)
            for log in (math.log2, math.log10)
        )

    def settings(self, index: int) -> tuple[Setting, ...]:
        """Give the keys and their values at a position."""
        return tuple(zip(self.keys, self.values[index], strict=True))


def axis(names: str, values: Sequence[Any]) -> Axis:
    """Read a line of the section. Raises ValueError where it has no values, or not one a key."""
    keys = _keys(names)
    if not all(keys):
        raise ValueError(f"{names!r} is not a key: write for example partition.data")
    if not values:
        raise ValueError(f"{names} has no values: give a list of them")
    rows = [list(value) if isinstance(value, list) else [value] for value in values] if len(keys) > 1 else []
    if wrong := next((row for row in rows if len(row) != len(keys)), None):
        raise ValueError(
            f"{names} are {len(keys)} keys, but one item has {len(wrong)} values: give a list of one a key"
        )
    return Axis(keys, tuple(map(tuple, rows)) if rows else tuple((value,) for value in values))


def _keys(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


def number(value: Any) -> tuple[float, str] | None:
    """Give a number, or a quantity in base units, with its unit; None for anything else.

    >>> number(4), number("1 kB"), number("ring"), number(True)
    ((4.0, ''), (1000.0, 'B'), None, None)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), ""
    try:
        return parse_quantity(value)
    except ValueError:
        return None
