"""Whom a parameter server answers, and which gradients it applies: the modes' laws, for random orders of arrival."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from tests.repeated import seeds

from twinstep.programs.admission import Admission, Bounded, Rounds, Verdict

WORKERS, STEPS = 5, 12
MODES = ["bound 0", "bound 1", "bound 3", "no bound", "rounds", "rounds but 1", "rounds but 4"]

each_seed = pytest.mark.parametrize("seed", seeds(20, quick=5))


class Push(NamedTuple):
    worker: int
    lag: int
    verdict: Verdict
    clocks: list[int]


def admission_of(mode: str) -> Admission:
    kind, number = mode.rsplit(maxsplit=1) if mode[-1].isdigit() else (mode, "0")
    if "rounds" in kind:
        return Rounds(WORKERS, STEPS, backups=int(number))
    return Bounded(WORKERS, None if mode == "no bound" else int(number))


def lived(mode: str, seed: int) -> list[Push]:
    """Let workers push in a random order until all have taken all steps."""
    dice = random.Random(seed)
    admission = admission_of(mode)
    clocks = [0] * WORKERS
    computing = list(range(WORKERS))
    found = []
    while computing:
        worker = computing.pop(dice.randrange(len(computing)))
        lag = admission.lag(worker)
        clocks[worker] += 1
        verdict = admission.pushed(worker)
        computing += [each for each in verdict.answered if clocks[each] < STEPS]
        found.append(Push(worker, lag, verdict, list(clocks)))
    return found


@pytest.mark.parametrize("mode", MODES)
@each_seed
def test_every_gradient_is_answered_once_and_applied_once_at_most(mode: str, seed: int) -> None:
    pushes = lived(mode, seed)
    assert len(pushes) == WORKERS * STEPS
    once_each = sorted(worker for worker in range(WORKERS) for _ in range(STEPS))
    assert sorted(worker for push in pushes for worker in push.verdict.answered) == once_each
    applied = sorted(worker for push in pushes for worker in push.verdict.applied)
    assert applied == once_each if "but" not in mode else set(applied) <= set(once_each)


@pytest.mark.parametrize("bound", [0, 1, 3])
@each_seed
def test_nobody_goes_on_who_is_more_than_the_bound_ahead(bound: int, seed: int) -> None:
    pushes = lived(f"bound {bound}", seed)
    ahead = [push.clocks[each] - min(push.clocks) for push in pushes for each in push.verdict.answered]
    assert max(ahead) == bound
    assert max(push.lag for push in pushes) == bound


@pytest.mark.parametrize("mode", ["bound 0", "rounds"])
@each_seed
def test_with_a_bound_of_zero_and_in_rounds_all_are_answered_together(mode: str, seed: int) -> None:
    for number, push in enumerate(lived(mode, seed), 1):
        assert push.verdict.answered == ([] if number % WORKERS else list(range(WORKERS)))


@each_seed
def test_rounds_apply_together_and_bounds_as_they_come(seed: int) -> None:
    assert all(push.verdict.applied == push.verdict.answered for push in lived("rounds", seed))
    assert all(push.verdict.applied == [push.worker] for push in lived("bound 2", seed))


@each_seed
def test_without_a_bound_the_one_who_pushed_is_answered(seed: int) -> None:
    assert all(push.verdict.answered == [push.worker] for push in lived("no bound", seed))


@each_seed
def test_a_bound_that_is_never_met_is_none(seed: int) -> None:
    assert [push.verdict for push in lived(f"bound {STEPS}", seed)] == [
        push.verdict for push in lived("no bound", seed)
    ]


@pytest.mark.parametrize("backups", [1, 4])
@each_seed
def test_a_round_takes_all_but_the_backups_and_drops_who_is_late(backups: int, seed: int) -> None:
    pushes = lived(f"rounds but {backups}", seed)
    closed = [push.verdict.applied for push in pushes if push.verdict.applied]
    while_all_work = [push for push in pushes if max(push.clocks) < STEPS]
    assert all(len(push.verdict.applied) in (0, WORKERS - backups) for push in while_all_work)
    late = [push for push in pushes if push.lag]
    assert all(push.worker in push.verdict.answered for push in late)
    assert sum(map(len, closed)) + len(late) == WORKERS * STEPS
