"""Deaths: who can be missed, what replicas cost, and that nothing acknowledged is lost, in virtual time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.repeated import slow_but
from tests.small_plans import BYTES_PER_S, HOP_S, REGRESSION, WIDE, make, predict, star

from twinstep import learning
from twinstep.learning.data import Floats
from twinstep.plan import Plan
from twinstep.programs import parameter_server
from twinstep.programs.admission import Bounded, Rounds
from twinstep.sim import Simulation
from twinstep.timeline import Timeline
from twinstep.timeline_lines import from_json_lines, to_json_lines

WORKERS = 4
RUN: dict[str, Any] = {"steps": 12, "warmup": 0, "compute": "emulated", "jitter": 0.3}
MODES: dict[str, dict[str, Any]] = {
    "bulk synchronous": {},
    "stale synchronous": {"mode": "stale_synchronous", "bound": 1},
    "asynchronous": {"mode": "asynchronous"},
}


def plan_of(servers: dict[str, Any], mode: str, **changes: Any) -> dict[str, Any]:
    sync = {"method": "parameter_server", "servers": servers} | MODES[mode]
    known = {"workload": REGRESSION, "run": RUN, "communication": {"library": "ideal"}}
    return {"partition": {"data": WORKERS}, "sync": sync} | known | changes


def served(servers: dict[str, Any], mode: str = "bulk synchronous", **changes: Any) -> Timeline:
    return simulated(servers, mode, **changes).timeline


def simulated(servers: dict[str, Any], mode: str = "bulk synchronous", **changes: Any) -> Simulation:
    plan, topology = make(star(WORKERS + servers["count"]), **plan_of(servers, mode, **changes))
    return predict(plan, topology)


@cache
def undisturbed(servers: int, replicas: int, mode: str = "bulk synchronous", *, learning: bool = False) -> Timeline:
    """Predict the run in which nobody dies, once for all tests."""
    return served({"count": servers, "replicas": replicas}, mode, run=RUN | {"learning": learning})


def dying(*deaths: tuple[int, float], **run: Any) -> dict[str, Any]:
    listed = [{"rank": rank, "at": f"{1e6 * at_s} us"} for rank, at_s in deaths]
    return RUN | {"deaths": listed} | run


def end_s(timeline: Timeline) -> float:
    return max(span.end_s for span in timeline.spans if span.lane == "step")


def steps_of(timeline: Timeline, rank: int) -> int:
    return sum(1 for span in timeline.spans if span.lane == "step" and span.rank == rank)


def observed(timeline: Timeline, name: str) -> list[float]:
    return [each.value for each in timeline.observations if each.name == name]


@pytest.mark.parametrize("servers", [2, 3, 4])
def test_a_replica_costs_one_more_copy_a_round(servers: int) -> None:
    """S/(k B), there and back for copy and acknowledgement, and the update of the server's own replica."""
    run = {"steps": 3, "warmup": 0, "compute": "emulated"}
    once, twice = (served({"count": servers, "replicas": r}, workload=WIDE, run=run) for r in (1, 2))
    plan, _ = make(star(9), workload=WIDE, partition={"data": WORKERS})
    model = parameter_server.describe(plan.training, 60)
    part_bytes = sum(parameter.size_bytes for parameter in model.parameters) / servers
    update_s = next(span.duration_s for span in twice.spans if span.phase == "optimizer")
    more_s = part_bytes / BYTES_PER_S + 2 * HOP_S + update_s
    assert twice.step_time_s() - once.step_time_s() == pytest.approx(more_s, rel=0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", slow_but((0.05, 0.5), (0.05, 0.3, 0.5, 0.77, 0.93)))
def test_every_worker_takes_all_its_steps_when_a_server_dies(share: float, mode: str) -> None:
    whole = undisturbed(3, 2, mode)
    timeline = served({"count": 3, "replicas": 2}, mode, run=dying((5, share * end_s(whole))))
    assert timeline.lost == (5,)
    assert [steps_of(timeline, rank) for rank in range(WORKERS)] == [12] * WORKERS
    assert not [span for span in timeline.spans if span.rank == 5]
    assert set(observed(timeline, "goes_on_with")) == {6.0}
    assert from_json_lines(to_json_lines(timeline)) == timeline


SHARES = np.linspace(0.02, 0.98, 13).tolist()


@pytest.mark.parametrize("share", slow_but(SHARES[::4], SHARES))
def test_bulk_synchrony_learns_the_same_whichever_server_dies(share: float) -> None:
    """No gradient is lost and none counts twice, so each worker observes the same losses, to the bit."""
    whole = undisturbed(2, 2, learning=True)
    for server in (4, 5):
        timeline = served({"count": 2, "replicas": 2}, run=dying((server, share * end_s(whole)), learning=True))
        for rank in range(WORKERS):
            found, expected = (
                [each.value for each in side.observations if (each.rank, each.name) == (rank, "loss")]
                for side in (timeline, whole)
            )
            assert found == expected


class OneEach(learning.WorkerLearner):
    """A worker whose gradient is 1 at its own place, whatever the parameters."""

    def __init__(self, rank: int, parts: int) -> None:
        self._gradient = np.zeros(WORKERS, np.float32)
        self._gradient[rank] = 1
        self._values = [np.zeros(WORKERS, np.float32) for _ in range(parts)]

    def parameters(self, server: int) -> Floats:
        return self._values[server]

    def gradients(self, server: int) -> Floats:
        return self._gradient


class Tally(learning.ServerLearner):
    """A server that counts each worker's gradients."""

    def __init__(self) -> None:
        self.count = np.zeros(WORKERS, np.float32)
        self._received = np.zeros((WORKERS, WORKERS), np.float32)
        self._answers = np.zeros((WORKERS, WORKERS), np.float32)

    def received(self, worker: int) -> Floats:
        return self._received[worker]

    def answer(self, worker: int) -> Floats:
        return self._answers[worker]

    def combined(self, workers: Any) -> Floats:
        return np.asarray(self._received[list(workers)].sum(axis=0))

    def copied(self) -> Floats:
        return np.zeros(WORKERS, np.float32)

    def apply(self, gradient: Floats | None) -> None:
        self.count += np.zeros(WORKERS, np.float32) if gradient is None else gradient

    def prepare(self, worker: int) -> None:
        self._answers[worker] = self.count


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", slow_but((0, 5, 11), range(12)))
def test_each_gradient_counts_once_on_every_replica(mode: str, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at_s = (moment + 0.5) / 12 * end_s(undisturbed(2, 2, mode))
    tallies: dict[int, list[Tally]] = {}

    def tally(plan: Plan, part: int, keys: object) -> Tally:
        tallies.setdefault(part, []).append(Tally())
        return tallies[part][-1]

    monkeypatch.setattr(parameter_server, "worker_learner", lambda plan, rank, share, keys: OneEach(rank, 2))
    monkeypatch.setattr(parameter_server, "server_learner", tally)
    served({"count": 2, "replicas": 2}, mode, run=dying((4, at_s)))
    for found in tallies.values():
        assert max(found, key=lambda each: each.count.sum()).count.tolist() == [12.0] * WORKERS
        assert max(tally.count.max() for tally in found) == 12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("victim", [0, 3])
def test_others_go_on_when_a_worker_dies(mode: str, replicas: int, victim: int) -> None:
    whole = undisturbed(2, replicas, mode)
    timeline = served({"count": 2, "replicas": replicas}, mode, run=dying((victim, 0.4 * end_s(whole))))
    assert timeline.lost == (victim,)
    others = [rank for rank in range(WORKERS) if rank != victim]
    assert [steps_of(timeline, rank) for rank in others] == [12] * 3
    assert not [span for span in timeline.spans if span.rank == victim]


def test_one_after_the_other_may_die() -> None:
    """Two servers that are no neighbours on the ring, and two workers."""
    whole_s = end_s(served({"count": 4, "replicas": 2}, "asynchronous"))
    deaths = dying((4, 0.2 * whole_s), (0, 0.3 * whole_s), (6, 0.5 * whole_s), (3, 0.6 * whole_s))
    timeline = served({"count": 4, "replicas": 2}, "asynchronous", run=deaths)
    assert timeline.lost == (0, 3, 4, 6)
    assert [steps_of(timeline, rank) for rank in (1, 2)] == [12, 12]


def test_a_death_after_the_end_changes_nothing() -> None:
    assert served({"count": 2}, run=dying((0, 1e3))) == served({"count": 2})


@pytest.mark.parametrize("mode", MODES)
def test_one_server_does_the_work_of_two_once_the_other_is_dead(mode: str) -> None:
    """Without compute to speak of, the link of the one that is left carries twice as much."""
    run = {"steps": 40, "warmup": 0, "compute": "emulated"}
    whole = served({"count": 2, "replicas": 2}, mode, workload=WIDE, run=run)
    broken = served({"count": 2, "replicas": 2}, mode, workload=WIDE, run=run | {"deaths": [{"rank": 5, "at": "1 us"}]})
    single = served({"count": 1}, mode, workload=WIDE, run=run)
    assert end_s(broken) == pytest.approx(end_s(single), rel=0.02)
    assert end_s(broken) > end_s(whole)


@pytest.mark.parametrize(
    ("servers", "mode", "deaths", "message"),
    [
        ({"count": 2}, "asynchronous", (4,), "rank 4 is the only server that has its parameters"),
        ({"count": 3, "replicas": 2}, "asynchronous", (5, 6), "no server has the parameters of rank 5 any more"),
        ({"count": 3, "replicas": 2}, "asynchronous", (0, 1, 2, 3), "no worker is left"),
        ({"count": 1, "replicas": 2}, "asynchronous", (), "replicas of 2 needs as many servers"),
        ({"count": 2}, "asynchronous", (9,), "ranks go from 0 to 5"),
        ({"count": 2}, "asynchronous", (1, 1), "names a rank twice"),
    ],
)
def test_what_ends_a_run_is_refused(servers: dict[str, Any], mode: str, deaths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(star(9), **plan_of(servers, mode, run=dying(*((rank, 1.0) for rank in deaths))))


def test_all_reduce_needs_everybody() -> None:
    with pytest.raises(ValidationError, match=r"with sync\.method all_reduce every rank is needed"):
        make(star(4), partition={"data": 4}, run=dying((1, 1.0)))


class TestAdmission:
    def test_the_slowest_is_not_waited_for_when_it_is_gone(self) -> None:
        admission = Bounded(workers=3, bound=0)
        assert admission.pushed(0).answered == admission.pushed(1).answered == []
        assert admission.left(2).answered == [0, 1]

    def test_who_waits_and_is_gone_is_not_answered(self) -> None:
        admission = Bounded(workers=3, bound=0)
        for worker in (0, 1):
            admission.pushed(worker)
        admission.left(0)
        assert admission.pushed(2).answered == [1, 2]

    def test_a_round_closes_without_the_dead(self) -> None:
        admission = Rounds(workers=3, steps=5, backups=0)
        admission.pushed(0)
        admission.pushed(2)
        verdict = admission.left(1)
        assert verdict.applied == verdict.answered == [0, 2]
