"""Measurements that another load on the machine may disturb: they are repeated where a bound is missed."""

from __future__ import annotations

from collections.abc import Callable


def least_of_three(error: Callable[[], float], bound: float) -> float:
    """Give the smallest of up to three errors, each of a whole measurement; the first that is within the bound ends it.

    What another load on the machine disturbs is not disturbed each time; what the model gets wrong is wrong each time.
    """
    least = error()
    for _ in range(2):
        if least > bound:
            least = min(least, error())
    return least
