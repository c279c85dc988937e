"""Points: what a sweep has found, point by point and line by line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from twinstep.sweep.axes import Axis, Setting, number


class Side(NamedTuple):
    """What is predicted of a point, or measured."""

    step_time_s: float
    worker_steps_per_s: float | None
    """Steps of all workers a second; None where they take no time."""
    samples_per_s: float | None
    """Samples of all workers a second; None where nothing is trained."""
    busiest_link: str
    """The direction of a link that carries the most; empty where none carries anything, or nobody counted."""
    busiest_link_bytes_per_step: float
    other_load_cores: float | None = None
    """How many cores other processes kept busy meanwhile, on average; None where nobody looked."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of values."""

    position: tuple[int, ...]
    """The index of its value on each axis."""
    settings: tuple[Setting, ...]
    predicted: Side | None = None
    measured: Side | None = None
    problem: str = ""
    """Why it was not predicted, or not measured where it should have been."""
    failed: bool = False
    """Whether it was executed, and the run did not end well."""

    @property
    def error(self) -> float | None:
        """Signed fraction (predicted - measured) / measured of the step time; None where one of them is missing."""
        if self.predicted is None or self.measured is None:
            return None
        return self.predicted.step_time_s / self.measured.step_time_s - 1


class Crossover(NamedTuple):
    """Where one line overtakes another along the axis of the chart."""

    before: str
    """The line that is faster up to `low`."""
    after: str
    """The line that is faster from `high` on."""
    low: str
    """As it is written in the file, or a whole number that was sought between."""
    high: str
    at: float | None
    """Where the lines meet, interpolated between them, in base units; None where no whole number is between."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well predictions agree with measurements, over points."""

    points: int
    mean_absolute_error: float
    """As a fraction (MAPE)."""
    largest_error: float
    """Of absolute errors, as a fraction."""
    spearman: float | None
    """Rank correlation of step times: does the prediction put plans in the right order? None where all are equal."""
    other_load_cores: float | None = None
    """How many cores other processes kept busy during the point at which they did most."""


@dataclass(frozen=True)
class Swept:
    """All that a sweep has found."""

    scenario: str
    question: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    crossovers: tuple[Crossover, ...]
    """By predicted step times, in the order of the axis."""
    measured_crossovers: tuple[Crossover, ...] = ()
    agreement: Agreement | None = None
    """None where nothing was measured."""

    @property
    def along(self) -> int:
        """The index of the axis of the chart."""
        return chart_axis(self.axes)

    @property
    def axis(self) -> Axis:
        """The axis of the chart."""
        return self.axes[self.along]

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The points by the values of all other axes."""
        return lines(self.axes, self.points)


class Line(NamedTuple):
    """Points that differ along the axis of the chart alone."""

    name: str
    settings: tuple[Setting, ...]
    points: tuple[Point, ...]
    """By their numbers on the axis, where it has numbers."""


def chart_axis(axes: Sequence[Axis]) -> int:
    """Give the index of the first axis that has several numbers, or of the first where none has."""
    return next((index for index, each in enumerate(axes) if len(set(each.numbers)) > 1), 0)


def positions(axes: Sequence[Axis]) -> Iterator[tuple[int, ...]]:
    """Give all combinations of positions, the last axis first."""
    return product(*(range(len(each.values)) for each in axes))


def settings_at(axes: Sequence[Axis], position: Sequence[int]) -> tuple[Setting, ...]:
    """Give the keys and values of a combination."""
    return tuple(setting for each, index in zip(axes, position, strict=True) for setting in each.settings(index))


def lines(axes: Sequence[Axis], points: Sequence[Point]) -> tuple[Line, ...]:
    """Sort points into lines, in the order of the other axes' values."""
    along = chart_axis(axes)
    found: dict[tuple[int, ...], list[Point]] = {}
    for point in points:
        found.setdefault(point.position[:along] + point.position[along + 1 :], []).append(point)
    if numbers := axes[along].numbers:
        for each in found.values():
            each.sort(key=lambda point: numbers[point.position[along]])
    others = [each for index, each in enumerate(axes) if index != along]
    return tuple(
        Line(setting_words(settings) or "all", settings, tuple(found[rest]))
        for rest in found
        for settings in [settings_at(others, rest)]
    )


def value_words(value: Any) -> str:
    """Print a value as in YAML, a mapping without its braces.

    >>> value_words({"method": "gossip", "servers": {"count": 2}}), value_words([True, None])
    ('method: gossip, servers: {count: 2}', '[true, null]')
    """
    return _flow(value)[1:-1] if isinstance(value, dict) else _flow(value)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def setting_words(settings: Iterable[Setting]) -> str:
    """Name a line: words speak for themselves, and after them numbers with the last part of their key.

    >>> setting_words([("sync", {"method": "all_reduce", "bucket": "4 MiB"}), ("run.seed", 4)])
    'all_reduce (bucket 4 MiB, seed 4)'
    """
    leaves = list(_leaves(settings))
    names = ", ".join(str(value) for _, value in leaves if _is_word(value))
    numbers = ", ".join(
        f"{key.rpartition('.')[2]} {value_words(value)}" for key, value in leaves if not _is_word(value)
    )
    return f"{names} ({numbers})" if names and numbers else names or numbers


def _leaves(settings: Iterable[Setting]) -> Iterator[Setting]:
    for key, value in settings:
        if isinstance(value, dict):
            yield from _leaves(value.items())
        else:
            yield key, value


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and number(value) is None
