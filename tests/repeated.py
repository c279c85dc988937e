"""What tests repeat: measurements that another load may have disturbed, and laws with many examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def least_of_three(error: Callable[[], float], bound: float) -> float:
    """Give the smallest of up to three errors, each of a whole measurement; the first that is within the bound ends it.

    What another load on the machine disturbs is not disturbed each time; what the model gets wrong is wrong each time.
    """
    least = error()
    for _ in range(2):
        if least > bound:
            least = min(least, error())
    return least


def seeds(count: int, quick: int) -> list[Any]:
    """Give as many seeds; the fast suite takes the first of them, and `make test` all."""
    return slow_but(range(quick), range(count))


def slow_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Mark all cases slow but those that the fast suite takes."""
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]
