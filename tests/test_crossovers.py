"""Crossovers of a sweep: where lines meet, sought between the points that were predicted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from twinstep.sweep import Crossover, Line, Point, Side, Sweep, crossovers, lines, positions, settings_at


def point(position: tuple[int, ...], axes: Any, step_s: float | None) -> Point:
    side = Side(step_s, None, None, "", 0.0) if step_s is not None else None
    return Point(position, settings_at(axes, position), side)


def power_lines(values: dict[str, list[Any]], laws: dict[str, Callable[[float], float | None]]) -> tuple[Any, Any]:
    """Make the axes and lines of times that follow a law a method."""
    axes = Sweep(values).axes
    methods = list(laws)
    points = [
        point(position, axes, laws[methods[position[1]]](axes[0].numbers[position[0]])) for position in positions(axes)
    ]
    return axes, lines(axes, points)


def predicted_s(each: Point) -> float | None:
    return each.predicted.step_time_s if each.predicted else None


METHODS = ["a", "b"]


def test_powers_meet_where_they_do() -> None:
    """x^2 and 50 x meet at 50, and interpolation between logarithms is exact."""
    values = {"k": ["1 kB", "10 kB", "100 kB"], "m": METHODS}
    axes, found = power_lines(values, {"a": lambda x: x**2, "b": lambda x: 50e3 * x})
    (crossover,) = crossovers(axes, found, predicted_s)
    assert crossover == Crossover("a", "b", "10 kB", "100 kB", pytest.approx(50e3))


@pytest.mark.parametrize("exact", [3, 4, 9, 15, 31])
def test_whole_numbers_are_sought_between(exact: int) -> None:
    laws = {"a": lambda x: x - exact + 0.5 + 100, "b": lambda x: 100.0}
    axes, found = power_lines({"k": [2, 8, 32], "m": METHODS}, laws)
    asked = []

    def seek(line: Line, value: int) -> float:
        asked.append(value)
        return laws[line.name](value)

    (crossover,) = crossovers(axes, found, predicted_s, seek)
    assert crossover == Crossover("a", "b", str(exact - 1), str(exact), None)
    assert len(set(asked)) <= math.ceil(math.log2(24))


def test_invalid_numbers_are_passed_over() -> None:
    """Of 3 to 15, only multiples of 4 are plans: between 8 and 12 nothing is known."""
    laws = {"a": lambda x: x, "b": lambda x: 10.0}
    axes, found = power_lines({"k": [2, 16], "m": METHODS}, laws)
    (crossover,) = crossovers(
        axes, found, predicted_s, lambda line, value: laws[line.name](value) if value % 4 == 0 else None
    )
    assert crossover[:4] == ("a", "b", "8", "12")


def test_lines_may_cross_twice_and_touch() -> None:
    """The sign of a - b: -, 0, -, +, 0, -. Where they are equal nobody is faster."""
    differences = {1.0: -1.0, 2.0: 0.0, 3.0: -1.0, 4.0: 1.0, 5.0: 0.0, 6.0: -1.0}
    axes, found = power_lines(
        {"k": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "m": METHODS},
        {"a": lambda x: 10 + differences[x], "b": lambda x: 10.0},
    )
    assert [each[:4] for each in crossovers(axes, found, predicted_s)] == [
        ("a", "b", "3.0", "4.0"),
        ("b", "a", "4.0", "6.0"),
    ]


def test_points_that_are_missing_are_no_crossover() -> None:
    axes, found = power_lines({"k": [1, 2, 3], "m": METHODS}, {"a": lambda x: x, "b": lambda x: None if x > 2 else 2.5})
    assert crossovers(axes, found, predicted_s) == ()


def test_the_first_axis_with_numbers_is_the_charts() -> None:
    axes = Sweep({"m": METHODS, "k": [8, 2], "n": [1, 2]}).axes
    found = lines(axes, [point(position, axes, 1.0) for position in positions(axes)])
    assert [line.name for line in found] == ["a (n 1)", "a (n 2)", "b (n 1)", "b (n 2)"]
    assert [each.settings[1] for each in found[0].points] == [("k", 2), ("k", 8)]
