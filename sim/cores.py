"""Cores: how a host's computations and its collectives share them.

A computation never sleeps and needs one core. A collective's threads sleep and wake again and again; on cores that
computations keep busy they get neither more nor less than was measured: the collective's `crowded_rate` comes first,
and computations have equal parts of the rest, at most a core each. Where collectives alone would take more cores than
there are, each gets less by the same factor. Where computations leave a core idle, all have max-min fair rates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol, TypeVar

from twinstep.sim.max_min import ROUNDING, MaxMin, User


class CoreUser(User, Protocol):
    """Something that needs cores, and nothing else."""

    crowded_rate: float | None
    """The rate while computations fill the cores; None for a computation."""


C = TypeVar("C", bound=CoreUser)


def core_rates(host: int, users: Mapping[C, float], cores: float) -> Mapping[C, float]:
    """Give the rates of all users of a host, which are given with their weights."""
    computing = sum(weight * user.cap for user, weight in users.items() if user.crowded_rate is None)
    is_crowded = computing >= cores * (1 - ROUNDING)
    first = {user: user.crowded_rate for user in users if is_crowded and user.crowded_rate is not None}
    weights = defaultdict[float, float](float)
    for user, rate in first.items():
        weights[rate] += users[user]
    taken = sum(rate * weights[rate] for rate in sorted(weights))
    part = min(1.0, cores / taken) if taken else 1.0
    first = {user: rate * part for user, rate in first.items()}
    shares: MaxMin[C] = MaxMin({host: max(0.0, cores - taken)})
    for user in users:
        if user not in first:
            shares.add(user)
    return {**first, **shares.update()}
