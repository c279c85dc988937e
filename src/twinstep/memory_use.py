"""Memory use: what a rank holds, the one record of it that predictions and measurements both give."""

from __future__ import annotations

from typing import NamedTuple


class MemoryUse(NamedTuple):
    """Bytes of one rank."""

    parameters: int
    """Its own, or its shards of them; not what it gathers for a while."""
    gradients: int
    """Of its parameters, when the optimizer reads them."""
    optimizer_state: int
    peak: int
    """The most that was allocated at a time."""
    fragmentation: int | None
    """What a caching allocator has reserved beyond that: predicted, the allowance; None where there is no such one."""


def memory_errors(predicted: MemoryUse, measured: MemoryUse) -> dict[str, float | None]:
    """Give signed fractions, (predicted - measured) / measured, by part; None of what was not measured, or is new.

    >>> memory_errors(MemoryUse(9, 9, 18, 44, 0), MemoryUse(10, 9, 18, 40, None))["peak"]
    0.1
    """
    pairs = zip(predicted, measured, strict=True)
    return {name: _error(*pair) for name, pair in zip(MemoryUse._fields, pairs, strict=True)}


def _error(predicted: int | None, measured: int | None) -> float | None:
    if predicted is None or measured is None:
        return None
    if measured == 0:
        return 0.0 if predicted == 0 else None
    return (predicted - measured) / measured
