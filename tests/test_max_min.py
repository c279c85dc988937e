"""Max-min rates against an independent solver, and updates of them against fresh solutions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import linprog
from tests.repeated import seeds

from twinstep.sim.max_min import MaxMin, Weights


@dataclass(eq=False)
class User:
    """Something that wants a rate."""

    weights: Weights
    cap: float


def solve(users: Sequence[User], capacities: Mapping[int, float]) -> list[float]:
    """Give the rates of users that rise from zero."""
    shares: MaxMin[User] = MaxMin(capacities)
    for user in users:
        shares.add(user)
    rates = shares.update()
    return [rates[user] for user in users]


def by_linear_programs(users: Sequence[User], capacities: Mapping[int, float]) -> list[float]:
    """Find max-min rates in the plainest way: raise the least rate as far as it goes, fix who cannot rise, repeat."""
    count = len(users)
    loads = np.zeros((len(capacities), count + 1))
    for index, user in enumerate(users):
        for resource, weight in user.weights:
            loads[resource, index] = weight
    limits = np.array([capacities[resource] for resource in range(len(capacities))])
    fixed: dict[int, float] = {}
    while len(fixed) < count:
        level = _highest(users, loads, limits, fixed, None)
        for index in [i for i in range(count) if i not in fixed]:
            if _highest(users, loads, limits, fixed, (index, level)) <= level * (1 + 1e-7):
                fixed[index] = level
    return [fixed[index] for index in range(count)]


def _highest(
    users: Sequence[User],
    loads: np.ndarray,
    limits: np.ndarray,
    fixed: Mapping[int, float],
    chosen: tuple[int, float] | None,
) -> float:
    """Maximise the least of the free rates, or that of one user while no other free one falls below a level."""
    count = len(users)
    objective = np.zeros(count + 1)
    bounds = [(fixed[i], fixed[i]) if i in fixed else (0.0, users[i].cap) for i in range(count)] + [(0.0, None)]
    rows, sides = [loads], [limits]
    if chosen is None:
        objective[count] = -1
        for index in (i for i in range(count) if i not in fixed):
            row = np.zeros((1, count + 1))
            row[0, index], row[0, count] = -1, 1
            rows.append(row)
            sides.append(np.zeros(1))
    else:
        objective[chosen[0]] = -1
        for index in (i for i in range(count) if i not in fixed):
            bounds[index] = (min(chosen[1] * (1 - 1e-9), users[index].cap), users[index].cap)
    found = linprog(objective, np.concatenate(rows), np.concatenate(sides), bounds=bounds, method="highs")
    assert found.success
    return float(-found.fun)


def random_users(generator: random.Random) -> tuple[list[User], dict[int, float]]:
    resources = generator.randint(1, 5)
    capacities = {resource: generator.choice([1.0, 2.0, generator.uniform(0.5, 4)]) for resource in range(resources)}
    users = []
    for _ in range(generator.randint(1, 6)):
        used = generator.sample(range(resources), generator.randint(1, resources))
        weights = [(resource, float(generator.choice([1, 1, 1, 2, 3]))) for resource in used]
        users.append(User(weights, generator.choice([100.0, generator.uniform(0.1, 1)])))
    return users, capacities


@pytest.mark.parametrize("seed", seeds(500, quick=100))
def test_rates_are_those_of_an_independent_solver(seed: int) -> None:
    users, capacities = random_users(random.Random(seed))
    rates = solve(users, capacities)
    assert rates == pytest.approx(by_linear_programs(users, capacities), rel=1e-5)
    for resource, capacity in capacities.items():
        used = sum(w * rate for user, rate in zip(users, rates, strict=True) for r, w in user.weights if r == resource)
        assert used <= capacity * (1 + 1e-12)


def test_rates_do_not_depend_on_the_order_of_users_and_resources() -> None:
    generator = random.Random(3)
    for _ in range(200):
        users, capacities = random_users(generator)
        order = generator.sample(range(len(users)), len(users))
        shuffled = [User(generator.sample(users[i].weights, len(users[i].weights)), users[i].cap) for i in order]
        rates = solve(users, capacities)
        assert solve(shuffled, dict(reversed(capacities.items()))) == [rates[i] for i in order]


@pytest.mark.parametrize("copies", [2, 3, 7, 10, 129])
def test_equal_users_get_to_the_bit_what_one_with_their_weight_gets(copies: int) -> None:
    generator = random.Random(copies)
    for _ in range(100):
        users, capacities = random_users(generator)
        first, *others = users
        single = User([(resource, weight * copies) for resource, weight in first.weights], first.cap)
        rates = solve([single, *others], capacities)
        equal = [User(first.weights, first.cap) for _ in range(copies)]
        assert solve(equal + others, capacities) == [rates[0]] * copies + rates[1:]


EXACT, ROUNDED = (0.5, 1.0, 1.0, 1.0, 2.0, 4.0), (1 / 3, 0.1, 0.7, 11.3, 2 / 7)
"""Weights whose sums are exact, and others, as of messages that share a connection by size."""


def random_user(generator: random.Random, shares: MaxMin[User], weights: Sequence[float]) -> User:
    resources = generator.sample(list(shares.capacities), generator.randint(1, min(5, len(shares.capacities))))
    user = User([(r, generator.choice(weights)) for r in resources], 0.0)
    set_cap(user, shares)
    return user


def set_cap(user: User, shares: MaxMin[User]) -> None:
    user.cap = min(3.0, *(shares.capacities[resource] / weight for resource, weight in user.weights))


@pytest.mark.parametrize("weights", [EXACT, ROUNDED])
@pytest.mark.parametrize("seed", seeds(60, quick=20))
def test_updates_give_the_rates_of_a_fresh_solution(seed: int, weights: Sequence[float]) -> None:
    """Users come and go and capacities change, to nothing, too, several at once."""
    generator = random.Random(seed)
    shares: MaxMin[User] = MaxMin({r: generator.choice([1.0, 2.0, 10.0]) for r in range(generator.randint(1, 25))})
    users: list[User] = []
    for _ in range(40):
        for _ in range(generator.randint(1, 4)):
            choice = generator.random()
            if choice < 0.55 or not users:
                users.append(random_user(generator, shares, weights))
                shares.add(users[-1])
            elif choice < 0.9:
                gone = users.pop(generator.randrange(len(users)))
                shares.remove(gone, [resource for resource, _ in gone.weights])
            else:
                resource = generator.choice(list(shares.capacities))
                shares.set_capacity(resource, generator.choice([0.0, generator.uniform(0.1, 20)]))
                for user in shares.users[resource]:
                    set_cap(user, shares)
        shares.update()
        assert [shares.rates[user] for user in users] == pytest.approx(solve(users, shares.capacities), rel=1e-9)


def test_what_one_cannot_use_goes_to_the_others() -> None:
    """Of two resources the user of both is held back by the scarcer one alone."""
    users = [User([(0, 1.0)], 9.0), User([(0, 1.0), (1, 4.0)], 9.0)]
    assert solve(users, {0: 1.0, 1: 1.0}) == pytest.approx([0.75, 0.25])
