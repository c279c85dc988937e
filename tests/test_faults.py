"""Faults: whatever dies, hangs or is stopped, the run ends soon, says which rank it was, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.processes import Run, listening_addresses, wait_until
from tests.repeated import least_of_three

from twinstep.errors import RunError
from twinstep.exec.measure import measure_in
from twinstep.scenario import load_scenario

pytestmark = pytest.mark.slow

RANKS = 3
SMALL = ["workload.hidden=[16]", "workload.batch=12", "partition.data=3", "topology.devices=3", "run.warmup=0"]
EMULATED = ["run.compute=emulated", "topology.device={peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s}"]
"""Ranks that sleep instead of computing, and so start sooner."""
SHORT, ENDLESS = "run.steps=200", "run.steps=100000"
KILLS = 20
PATIENCE_S = 15.0
"""How long a run may take to end once something has happened to it."""

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts a run of three ranks; what is left of it ends with the test."""
    runs: list[Run] = []

    def start_run(*overrides: str) -> Run:
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        runs.append(Run(folder, *(word for override in (*SMALL, *overrides) for word in ("--set", override))))
        return runs[-1]

    yield start_run
    for run in runs:
        run.end()


def assert_over(run: Run) -> str:
    """Check that a run has ended and has left nothing behind but whole files; give what it printed."""
    assert wait_until(run.ended, PATIENCE_S), "the command has not ended"
    assert wait_until(lambda: not run.of_session(), 2), run.of_session()
    assert not list(run.temporary.glob("twinstep-*"))
    assert_readable(run.out)
    assert "Traceback" not in run.messages()
    return run.messages()


def assert_readable(out: Path) -> None:
    if out.exists():
        assert load_scenario(str(out / "plan.yaml")).plan.ranks == RANKS
    for path in out.glob("**/*"):
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            assert all(json.loads(line) for line in lines)
        else:
            assert path.suffix == ".yaml", "a file that was not finished"


@pytest.mark.parametrize("trial", range(KILLS))
def test_killed_rank_is_named(trial: int, start: Start) -> None:
    """Kill a random rank while ranks start, train or end; before there are any, it is the supervisor.

    Every other run emulates its compute: what watches ranks and ends them is the same.
    """
    chance = random.Random(trial)
    at_the_end = trial >= KILLS * 2 // 3
    run = start(SHORT if at_the_end else ENDLESS, *(EMULATED if trial % 2 else []))
    run.wait_for_supervisor() if trial < KILLS // 5 else run.wait_for_ranks(RANKS)
    time.sleep(chance.uniform(0, 2.0 if at_the_end else 1.2))
    ranks = run.ranks()
    victim = chance.choice(ranks or [run.supervisor])
    if victim in [process.pid for process in run.of_session()]:
        os.kill(victim, signal.SIGKILL)
    printed = assert_over(run)
    if at_the_end and run.process.returncode == 0:
        assert (run.out / "summary.json").exists()
        return
    assert run.process.returncode == 3
    if ranks:
        assert f"error: rank {ranks.index(victim)} was killed by SIGKILL\nits last operation, " in printed
    else:
        assert printed == "error: the supervisor ended without a word: killed by SIGKILL\n"


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_ends_its_run(number: signal.Signals, delay_s: float, start: Start) -> None:
    run = start(ENDLESS)
    run.wait_for_supervisor() if delay_s < 1 else run.wait_for_ranks(RANKS)
    time.sleep(delay_s)
    run.process.send_signal(number)
    printed = assert_over(run)
    assert run.process.returncode == 3
    assert printed == f"error: ended by {number.name}\n"


@pytest.mark.parametrize("delay_s", [0.0, 1.0])
@pytest.mark.parametrize("moment", ["before the fork", "after the fork"])
def test_killed_command_leaves_no_orphan(moment: str, delay_s: float, start: Start) -> None:
    run = start(ENDLESS)
    run.wait_for_supervisor() if moment == "before the fork" else run.wait_for_ranks(RANKS)
    time.sleep(delay_s)
    run.process.kill()
    assert wait_until(lambda: not run.of_session(), 5), run.of_session()
    assert "Traceback" not in run.messages()
    assert_readable(run.out)


@pytest.mark.timed
@pytest.mark.parametrize("stopped", [0, 2])
def test_stopped_rank_is_named_with_step_and_operation(stopped: int, start: Start) -> None:
    def time_to_end_s() -> float:
        run = start(ENDLESS, "run.timeout=3 s")
        ranks = run.wait_for_ranks(RANKS)
        time.sleep(2)
        os.kill(ranks[stopped], signal.SIGSTOP)
        began_s = time.monotonic()
        assert wait_until(run.ended, PATIENCE_S)
        elapsed_s = time.monotonic() - began_s
        printed = assert_over(run)
        assert run.process.returncode == 3
        assert f"error: rank {stopped} is stopped (SIGSTOP): no progress for 3 s\n" in printed
        assert re.search(r"its last operation, in step \d+: \S+", printed)
        return elapsed_s

    assert least_of_three(time_to_end_s, 3 + 2) < 3 + 2


def test_nothing_listens_outside_the_loopback_interface(start: Start) -> None:
    run = start(ENDLESS)
    run.wait_for_ranks(RANKS)
    seen: set[str] = set()
    deadline_s = time.monotonic() + 2

    def look() -> bool:
        seen.update(listening_addresses([run.process.pid, *(process.pid for process in run.of_session())]))
        return bool(seen) and time.monotonic() > deadline_s

    assert wait_until(look, 20), "no rank was seen to listen at all"
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert seen <= loopback


# A supervisor whose rank 1 fails in step 3, in one of several ways.
FAULTY = """\
import os, signal, sys, time
from twinstep.exec import supervisor
from twinstep.exec.training import Training

run_rank, run = supervisor.run_rank, Training.run

def fail(training, effect, step):
    if step == 3 and effect.phase == "backward":
        {fault}
    return run(training, effect, step)

def run_faulty_rank(job, rank, *others, **named):
    if rank == 1:
        Training.run = fail
    return run_rank(job, rank, *others, **named)

supervisor.run_rank = run_faulty_rank
main = supervisor.main
"""
FAULTS = {
    "raise ValueError('the disk is full')": "rank 1 failed: ValueError: the disk is full",
    "sys.exit('enough')": "rank 1 failed: SystemExit: enough",
    "os._exit(7)": "rank 1 failed: it left no message",
    "os.kill(os.getpid(), signal.SIGSEGV)": "rank 1 was killed by SIGSEGV",
    "time.sleep(1); run(training, effect, step); time.sleep(100)": "rank 1 hangs: no progress for 3 s",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_rank_is_named_with_its_message(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_supervisor.py").write_text(FAULTY.format(fault=fault))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    plan = load_scenario("quickstart", [*SMALL, ENDLESS, "run.timeout=3 s"]).plan
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(RunError) as failed:
        measure_in(folder, plan, None, lambda step: None, supervisor="faulty_supervisor")
    first, second = str(failed.value).splitlines()
    assert first == FAULTS[fault]
    assert second == "its last operation, in step 3: backward[layer=2]"
