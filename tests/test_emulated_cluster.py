"""Emulated clusters, for real: what is predicted is what happens, link by link, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from tests.emulation import interfaces, namespaces, needs_namespaces
from tests.processes import Run, children, wait_until
from tests.repeated import least_of_three

from twinstep import workflow
from twinstep.errors import RunError
from twinstep.exec.emulated.namespaces import Namespace, become_able
from twinstep.profile import Profile
from twinstep.report.contents import Contents
from twinstep.report.traffic import crossings
from twinstep.scenario import Scenario, load_scenario
from twinstep.timeline import Timeline

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_namespaces")]

DEVICE = "{peak: 100 GFLOP/s, memory_bandwidth: 50 GB/s}"
LINK = "{bandwidth: 200 Mb/s, latency: 1 us}"
GPT = "{kind: gpt, layers: 2, heads: 4, width: 128, context: 32, batch: 32}"
BENCH = "{kind: collective, collective: %s, size: 1 MiB, barrier: true}"
RUN = "steps: 4, warmup: 1, compute: emulated, backend: emulated, timeout: 30 s"
CLOSE = 0.35
"""A bound on the error that a busy machine keeps, too; `make validate` has the narrow ones."""
SETUP_BYTES = 2**16
"""What connections, groups and barriers take of a link before the first step."""
KILLS = 20

# Workload, partition and topology, and what else is run.
PLANS = {
    "star": (GPT, "{data: 4}", f"{{builder: star, hosts: 4, device: {DEVICE}, link: {LINK}}}", ""),
    "two ranks a host": (
        GPT,
        "{data: 4}",
        f"{{builder: star, hosts: 2, devices_per_host: 2, device: {DEVICE}, link: {LINK}}}",
        "",
    ),
    "torus": (GPT, "{data: 4}", f"{{builder: torus, dimensions: [2, 2], device: {DEVICE}, link: {LINK}}}", ""),
    "hybrid": (
        GPT,
        "{data: 2, tensor: 2, pipeline: 2, microbatches: 4}",
        f"{{builder: two_tier, racks: 2, hosts_per_rack: 4, device: {DEVICE}, link: {LINK}, uplink: {LINK}}}",
        "",
    ),
    "slow link": (
        GPT,
        "{data: 4}",
        f"{{builder: star, hosts: 4, device: {DEVICE}, link: {LINK}}}",
        ", link_changes: [{source: host1, target: switch0, bandwidth: 50 Mb/s}]",
    ),
    "others' flow": (
        BENCH % "all_reduce",
        "{data: 2}",
        f"{{builder: star, hosts: 3, device: {DEVICE}, link: {LINK}}}",
        ", background: [{kind: flow, source: host2, target: host0, size: 4 MiB}]",
    ),
    "gather": (BENCH % "gather", "{data: 4}", f"{{builder: star, hosts: 4, device: {DEVICE}, link: {LINK}}}", ""),
    "reduce-scatter": (
        BENCH % "reduce_scatter",
        "{data: 3}",
        f"{{builder: ring, hosts: 3, device: {DEVICE}, link: {LINK}}}",
        "",
    ),
    "message": (BENCH % "send", "{data: 3}", f"{{builder: star, hosts: 3, device: {DEVICE}, link: {LINK}}}", ""),
}


@pytest.fixture(scope="module")
def _namespaces() -> None:
    needs_namespaces()


def scenario_of(name: str, folder: Path) -> Scenario:
    workload, partition, topology, more = PLANS[name]
    path = folder / "plan.yaml"
    path.write_text(
        f"workload: {workload}\npartition: {partition}\nsync: {{bucket: 256 KiB}}\ntopology: {topology}\n"
        f"run: {{{RUN}{more}}}\n"
    )
    return load_scenario(str(path))


@pytest.fixture(scope="module", params=PLANS)
def execute(
    request: pytest.FixtureRequest, profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Contents]:
    """Predict each plan; give a function that executes it, and compares."""
    scenario = scenario_of(request.param, tmp_path_factory.mktemp("plan"))
    prediction = workflow.predict(scenario, profile, every_rank=True)

    def execute() -> Contents:
        return workflow.contents(scenario, profile, prediction, workflow.measure(scenario, profile, lambda share: None))

    return execute


@pytest.fixture(scope="module")
def contents(execute: Callable[[], Contents]) -> Contents:
    """Predict and execute each plan, once for all tests."""
    return execute()


@pytest.mark.timed
def test_structure_matches(contents: Contents) -> None:
    assert contents.comparison
    assert contents.comparison.differences == ()


@pytest.mark.timed
def test_step_time_is_close(contents: Contents, execute: Callable[[], Contents]) -> None:
    runs = chain([contents], iter(execute, None))

    def error() -> float:
        comparison = next(runs).comparison
        assert comparison
        return abs(comparison.step_time_error)

    assert least_of_three(error, CLOSE) < CLOSE


@pytest.mark.timed
def test_links_carry_what_is_predicted(contents: Contents) -> None:
    """On busy links within 2 % and what setting up takes; what others send goes on a little after the end."""
    found = crossings(contents)
    most = max(crossing.counted.size_bytes for crossing in found)
    busy = [crossing for crossing in found if crossing.counted.size_bytes > most / 5]
    assert len(busy) >= 2
    if "background" not in contents.plan_yaml or "background: []" in contents.plan_yaml:
        for crossing in busy:
            counted = crossing.counted.size_bytes
            assert crossing.predicted.size_bytes == pytest.approx(counted, abs=0.02 * counted + SETUP_BYTES), (
                crossing.name
            )


@pytest.mark.timed
def test_utilisation_is_a_fraction(contents: Contents) -> None:
    assert contents.measurement
    assert contents.measurement.counts
    for link in contents.measurement.counts.links:
        assert 0 <= link.utilisation <= 1
        assert len(link.course) == len(contents.measurement.counts.times_s) - 1
    assert 0 < contents.measurement.counts.cores_busy_share <= 1


def rank_end_s(timeline: Timeline) -> float:
    return max(span.end_s for span in timeline.spans if span.step == 0 and span.phase == "communication")


@pytest.mark.timed
def test_sixteen_hosts_are_up_soon(profile: Profile, tmp_path: Path) -> None:
    """Namespaces, links, ranks and a first all-reduce; an idle machine takes 10 s at most, a busy one more."""
    topology = f"{{builder: star, hosts: 16, device: {DEVICE}, link: {LINK}}}"
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"workload: {BENCH % 'all_reduce'}\npartition: {{data: 16}}\ntopology: {topology}\n"
        f"run: {{{RUN.replace('steps: 4, warmup: 1', 'steps: 1, warmup: 0')}}}\n"
    )
    scenario = load_scenario(str(path))

    def elapsed_s() -> float:
        begin_s = time.monotonic()
        measured = workflow.measure(scenario, profile, lambda share: None)
        assert rank_end_s(measured.timeline) > 0
        return time.monotonic() - begin_s

    assert least_of_three(elapsed_s, 30) < 30


ENDLESS = [
    *("--set", "workload={kind: collective, collective: all_reduce, size: 256 KiB}"),
    *("--set", "partition.data=3"),
    *("--set", f"topology={{builder: star, hosts: 4, device: {DEVICE}, link: {LINK}}}"),
    *("--set", "run={compute: emulated, backend: emulated, steps: 100000}"),
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start a run that does not end by itself."""
    started = Run(tmp_path, *ENDLESS)
    yield started
    started.end()


def made_by(run: Run) -> set[str]:
    """Name the namespaces that a run's processes hold, but for the one that all processes are in."""
    return namespaces(process.pid for process in run.of_session()) - namespaces([os.getpid()])


def assert_nothing_left(run: Run, made: set[str], own_interfaces: list[str]) -> None:
    assert wait_until(run.ended, 15)
    assert wait_until(lambda: not run.of_session(), 5), run.of_session()
    assert wait_until(lambda: not made & namespaces(), 5), made & namespaces()
    assert interfaces() == own_interfaces
    assert wait_until(lambda: not list(run.temporary.glob("twinstep-*")), 5), list(run.temporary.iterdir())


@pytest.mark.parametrize("trial", range(KILLS))
def test_whoever_is_killed_nothing_is_left(trial: int, tmp_path: Path) -> None:
    """Kill the command, the keeper of the crew or a rank at a random moment: while they start, build or run."""
    chance = random.Random(trial)
    own_interfaces = interfaces()
    run = Run(tmp_path, *ENDLESS)
    try:
        keeper = run.wait_for_supervisor()
        time.sleep(chance.uniform(0, 4.0))
        victims, made = [run.process.pid, keeper, *children(keeper)], made_by(run)
        os.kill(chance.choice(victims), signal.SIGKILL)
        assert_nothing_left(run, made, own_interfaces)
    finally:
        run.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    own_interfaces = interfaces()
    run = Run(tmp_path, *ENDLESS)
    try:
        run.wait_for_ranks(3)
        made = made_by(run)
        assert len(made) >= 5, "four hosts and a switch have no namespaces of their own"
        run.process.send_signal(number)
        assert_nothing_left(run, made, own_interfaces)
        assert f"ended by {number.name}" in run.messages()
    finally:
        run.end()


def test_killed_rank_is_named(run: Run) -> None:
    ranks = run.wait_for_ranks(3)
    time.sleep(0.5)
    os.kill(ranks[1], signal.SIGKILL)
    assert wait_until(run.ended, 15)
    assert run.process.returncode == 3
    assert "rank 1 was killed by SIGKILL" in run.messages()


def test_without_root_it_is_the_same(tmp_path: Path) -> None:
    """A user namespace that maps this user to another takes root's rights away."""
    scenario_of("star", tmp_path)
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-m", "twinstep", "measure"]
    done = subprocess.run(
        [*command, str(tmp_path / "plan.yaml"), "--json", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["measured"]["step_time_s"] > 0
    assert len(summary["measured"]["links"]) == 8


def test_missing_tool_is_named() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become_able(lambda: None)
            Namespace().run("no-such-tool", [])
        except RunError as error:
            status = 0 if "install iproute2" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
