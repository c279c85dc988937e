"""Deaths of real ranks: SIGKILL at random moments, of workers and of servers, with and without replicas."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.processes import Run, wait_until

from twinstep.scenario import load_scenario
from twinstep.timeline import Timeline
from twinstep.timeline_lines import from_json_lines
from twinstep.workflow import predict

pytestmark = pytest.mark.slow

WORKERS, SERVERS, STEPS = 3, 2, 250
DEVICE = "{peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s}"
PLAN = (
    "workload={kind: mlp, hidden: [16], batch: 12, optimizer: {kind: sgd, learning_rate: 0.1}}",
    f"partition.data={WORKERS}",
    f"topology={{builder: one_host, devices: {WORKERS + SERVERS}, device: {DEVICE}}}",
    f"run={{steps: {STEPS}, warmup: 0, compute: emulated, learning: true, timeout: 20 s}}",
)
MODES = ("bulk_synchronous", "stale_synchronous", "asynchronous")
KILLS = 20
PATIENCE_S = 60.0


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[Run]]:
    """Give a list of runs, which end with the test."""
    found: list[Run] = []
    yield found
    for run in found:
        run.end()


def start(folder: Path, runs: list[Run], mode: str, replicas: int, *overrides: str) -> Run:
    sync = f"sync={{method: parameter_server, mode: {mode}, servers: {{count: {SERVERS}, replicas: {replicas}}}}}"
    words = [word for override in (*PLAN, sync, *overrides) for word in ("--set", override)]
    runs.append(Run(folder, *words))
    return runs[-1]


def kill(run: Run, rank: int, after_s: float) -> None:
    """Kill a rank some time after all ranks are there."""
    ranks = run.wait_for_ranks(WORKERS + SERVERS)
    time.sleep(after_s)
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.kill(ranks[rank], signal.SIGKILL)


def timeline_of(run: Run) -> Timeline:
    return from_json_lines((run.out / "measured.jsonl").read_text().splitlines())


def losses(timeline: Timeline, rank: int) -> list[float]:
    return [each.value for each in timeline.observations if (each.rank, each.name) == (rank, "loss")]


@pytest.mark.parametrize("trial", range(KILLS))
def test_whoever_is_killed_the_others_take_all_their_steps(trial: int, tmp_path: Path, runs: list[Run]) -> None:
    """Bulk synchronous workers that are left learn, to the last digits, what they would have learnt."""
    chance = random.Random(trial)
    mode, victim = MODES[trial % 3], chance.randrange(WORKERS + SERVERS)
    run = start(tmp_path, runs, mode, 2)
    kill(run, victim, chance.uniform(0.1, 2.5))
    assert wait_until(run.ended, PATIENCE_S), "the command has not ended"
    assert "Traceback" not in run.messages()
    if run.process.returncode == 3:
        assert f"rank {victim} was killed by SIGKILL\nits last operation, before the first step" in run.messages()
        return
    assert run.process.returncode == 0, run.messages()
    timeline = timeline_of(run)
    assert set(timeline.lost) <= {victim}
    assert json.loads((run.out / "summary.json").read_text())["measured"]["lost_ranks"] == list(timeline.lost)
    for worker in set(range(WORKERS)) - set(timeline.lost):
        assert len(losses(timeline, worker)) == STEPS
    if mode == "bulk_synchronous" and victim >= WORKERS:
        scenario = load_scenario(str(run.out / "plan.yaml"))
        expected = predict(scenario, None, every_rank=True).timeline
        for worker in range(WORKERS):
            assert losses(timeline, worker) == pytest.approx(losses(expected, worker), rel=1e-6)


def test_the_only_server_that_has_them_takes_the_run_along(tmp_path: Path, runs: list[Run]) -> None:
    run = start(tmp_path, runs, "asynchronous", 1, f"run.steps={4 * STEPS}")
    kill(run, WORKERS + 1, 1.5)
    assert wait_until(run.ended, PATIENCE_S), "the command has not ended"
    assert run.process.returncode == 3
    assert f"rank {WORKERS + 1} was killed by SIGKILL" in run.messages()
    assert f"rank {WORKERS + 1} is the only server that has its parameters" in run.messages()


@pytest.mark.parametrize("victim", range(WORKERS))
def test_nobody_waits_for_a_worker_that_is_gone(victim: int, tmp_path: Path, runs: list[Run]) -> None:
    run = start(tmp_path, runs, "asynchronous", 1, f"run.steps={2 * STEPS}")
    kill(run, victim, 1.2)
    assert wait_until(run.ended, PATIENCE_S), "the command has not ended"
    assert run.process.returncode == 0, run.messages()
    timeline = timeline_of(run)
    assert timeline.lost == (victim,)
    assert all(len(losses(timeline, worker)) == 2 * STEPS for worker in set(range(WORKERS)) - {victim})


def test_planned_deaths_come_when_they_are_planned(tmp_path: Path, runs: list[Run]) -> None:
    deaths = "run.deaths=[{rank: 4, at: 300 ms}, {rank: 0, at: 500 ms}]"
    run = start(tmp_path, runs, "asynchronous", 2, deaths, f"run.steps={3 * STEPS}")
    assert wait_until(run.ended, PATIENCE_S), "the command has not ended"
    timeline = timeline_of(run)
    assert timeline.lost == (0, 4)
    moved = [each for each in timeline.observations if each.name == "goes_on_with"]
    assert {each.rank for each in moved} == {1, 2}
    assert all(each.time_s >= 0.3 for each in moved)
