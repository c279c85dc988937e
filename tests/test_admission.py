"""Whom a parameter server answers: the modes' laws, for random orders of arrival."""

from __future__ import annotations

import random

import pytest

from twinstep.programs.admission import Admission

WORKERS, STEPS = 5, 12


def lived(bound: int | None, seed: int) -> list[tuple[int, list[int], list[int]]]:
    """Let workers push in a random order until all have taken all steps: worker, who is answered, clocks."""
    dice = random.Random(seed)
    admission = Admission(WORKERS, bound)
    clocks = [0] * WORKERS
    computing = list(range(WORKERS))
    found = []
    while computing:
        worker = computing.pop(dice.randrange(len(computing)))
        clocks[worker] += 1
        ready = admission.pushed(worker)
        computing += [each for each in ready if clocks[each] < STEPS]
        found.append((worker, ready, list(clocks)))
    return found


@pytest.mark.parametrize("bound", [0, 1, 3, None])
@pytest.mark.parametrize("seed", range(20))
def test_every_gradient_is_answered_once(bound: int | None, seed: int) -> None:
    pushes = lived(bound, seed)
    assert len(pushes) == WORKERS * STEPS
    answered = [worker for _, ready, _ in pushes for worker in ready]
    assert sorted(answered) == sorted([worker for worker in range(WORKERS) for _ in range(STEPS)])


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_nobody_goes_on_who_is_more_than_the_bound_ahead(bound: int, seed: int) -> None:
    most = 0
    for _, ready, clocks in lived(bound, seed):
        ahead = [clocks[each] - min(clocks) for each in ready]
        assert all(each <= bound for each in ahead)
        most = max([most, *ahead])
    assert most == bound


@pytest.mark.parametrize("seed", range(20))
def test_with_a_bound_of_zero_all_are_answered_together(seed: int) -> None:
    for number, (_, ready, _) in enumerate(lived(0, seed), 1):
        assert ready == ([] if number % WORKERS else list(range(WORKERS)))


@pytest.mark.parametrize("seed", range(20))
def test_without_a_bound_the_one_who_pushed_is_answered(seed: int) -> None:
    assert all(ready == [worker] for worker, ready, _ in lived(None, seed))


@pytest.mark.parametrize("seed", range(20))
def test_a_bound_that_is_never_met_is_none(seed: int) -> None:
    assert lived(STEPS, seed) == lived(None, seed)
