"""Quantities with units: the only place that reads "400 Gb/s" or "5 us", and the only one that prints them.

Inside twinstep every quantity is a plain number in base units (bytes, seconds, bytes/s, FLOP/s) and says so in its
name. Decimal prefixes are powers of 1000 and binary ones (Ki, Mi, Gi) powers of 1024; `b` is a bit, `B` a byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z/µ]+)\s*", re.ASCII)
_LONGEST_TEXT = 64


def _scaled(unit: str, scale: float = 1.0, *, binary: bool = False) -> dict[str, float]:
    prefixes = _PREFIXES | _BINARY if binary else _PREFIXES
    return {prefix + unit: factor * scale for prefix, factor in prefixes.items()}


_SIZES = _scaled("B", binary=True) | _scaled("b", 1 / 8, binary=True)
_DURATIONS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BANDWIDTHS = {f"{unit}/s": factor for unit, factor in _SIZES.items()}
_FLOP_RATES = _scaled("FLOP/s")


def _parse(text: Any, units: Mapping[str, float], example: str) -> float:
    if not isinstance(text, str):
        raise ValueError(f"a bare number has no unit: write for example {example!r}")
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise ValueError(f"not a quantity with a unit: write for example {example!r}")
    number, unit = match.groups()
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r}: write for example {example!r} (known: {', '.join(units)})")
    value = float(Decimal(number) * Decimal(repr(units[unit])))
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"must be finite and not negative: write for example {example!r}")
    return value


def parse_size_bytes(text: Any) -> int:
    """Read a size in bytes.

    >>> parse_size_bytes("1 MiB"), parse_size_bytes("8 kb")
    (1048576, 1000)

    Raises ValueError for a bare number, an unknown unit, a negative size or a part of a byte.
    """
    value = _parse(text, _SIZES, "25 MiB")
    if value != round(value):
        raise ValueError("must be a whole number of bytes: write for example '25 MiB'")
    return round(value)


def parse_duration_s(text: Any) -> float:
    """Read a duration in seconds.

    >>> parse_duration_s("5 us")
    5e-06
    """
    return _parse(text, _DURATIONS, "5 us")


def parse_bandwidth_bytes_per_s(text: Any) -> float:
    """Read a bandwidth in bytes a second.

    >>> parse_bandwidth_bytes_per_s("400 Gb/s")
    50000000000.0
    """
    return _parse(text, _BANDWIDTHS, "400 Gb/s")


def parse_flops_per_s(text: Any) -> float:
    """Read a rate of floating-point operations a second.

    >>> parse_flops_per_s("10 TFLOP/s")
    10000000000000.0
    """
    return _parse(text, _FLOP_RATES, "10 TFLOP/s")


def parse_quantity(text: Any) -> tuple[float, str]:
    """Read a quantity of any kind, and name its base unit.

    >>> parse_quantity("400 Gb/s"), parse_quantity("2 ms")
    ((50000000000.0, 'B/s'), (0.002, 's'))

    Raises ValueError for what is none.
    """
    kinds = {"B": _SIZES, "s": _DURATIONS, "B/s": _BANDWIDTHS, "FLOP/s": _FLOP_RATES}
    unit = next((unit for unit, units in kinds.items() if str(text).split(" ")[-1] in units), "B")
    return _parse(text, kinds[unit], "25 MiB"), unit


def _quantity(read: Callable[[Any], float], unit: str, example: str, low: float, high: float) -> tuple[Any, ...]:
    """Make the pydantic annotations of a quantity: text with a unit outside, a plain number from low to high inside.

    The bounds are far beyond any machine; within them no time overflows or vanishes.
    """

    def validate(value: Any) -> Any:
        number = read(value)
        if number <= 0:
            raise ValueError(f"must be greater than zero: write for example {example!r}")
        if not low <= number <= high:
            raise ValueError(f"must lie between {low:g} and {high:g} {unit}: write for example {example!r}")
        return number

    schema = {"type": "string", "pattern": r"^\s*[0-9.]", "examples": [example]}
    return BeforeValidator(validate), PlainSerializer(lambda v: f"{v!r} {unit}"), WithJsonSchema(schema)


SizeBytes = Annotated[int, *_quantity(parse_size_bytes, "B", "25 MiB", 1, 2**60)]
DurationS = Annotated[float, *_quantity(parse_duration_s, "s", "5 us", 1e-12, 1e6)]
BandwidthBytesPerS = Annotated[float, *_quantity(parse_bandwidth_bytes_per_s, "B/s", "400 Gb/s", 1, 1e15)]
FlopsPerS = Annotated[float, *_quantity(parse_flops_per_s, "FLOP/s", "10 TFLOP/s", 1e3, 1e21)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


def format_duration(duration_s: float) -> str:
    """Print a duration for people, three significant digits.

    >>> format_duration(0.01234), format_duration(0)
    ('12.3 ms', '0 s')
    """
    if duration_s == 0:
        return "0 s"
    unit, factor = next(
        ((u, f) for u, f in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)) if abs(duration_s) >= f), ("ns", 1e-9)
    )
    return f"{_three_digits(duration_s / factor)} {unit}"


def format_size(size_bytes: float) -> str:
    """Print a size for people.

    >>> format_size(1536), format_size(12)
    ('1.50 KiB', '12 B')
    """
    for unit, factor in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if size_bytes >= factor:
            return f"{_three_digits(size_bytes / factor)} {unit}"
    return f"{size_bytes:.0f} B"


def format_rate(per_s: float, unit: str) -> str:
    """Print a rate for people, with decimal prefixes.

    >>> format_rate(5e10, "B/s"), format_rate(1e13, "FLOP/s")
    ('50.0 GB/s', '10.0 TFLOP/s')
    """
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if per_s >= factor:
            return f"{_three_digits(per_s / factor)} {prefix}{unit}"
    return f"{_three_digits(per_s)} {unit}"


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
