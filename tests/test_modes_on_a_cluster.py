"""Parameter servers, local SGD and gossip on emulated clusters: updates a second and staleness as predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.emulation import needs_namespaces
from tests.repeated import least_of_three

from twinstep import workflow
from twinstep.compare import structure_differences
from twinstep.profile import Profile
from twinstep.progress import progress, staleness_distance
from twinstep.scenario import Scenario, load_scenario

pytestmark = [pytest.mark.slow, pytest.mark.timed, pytest.mark.usefixtures("_namespaces")]

CLOSE = 0.35
"""What a busy machine keeps, too: errors of updates a second and of the last loss, and the total-variation distance."""

# Method, ranks of the workers, hosts.
MODES = {
    "bulk synchronous": ("method: parameter_server, servers: {count: 2}", 4, 6),
    "asynchronous": ("method: parameter_server, mode: asynchronous", 4, 5),
    "stale synchronous": ("method: parameter_server, mode: stale_synchronous, bound: 1", 4, 5),
    "backup worker": ("method: parameter_server, backups: 1", 4, 5),
    "servers beside workers": ("method: parameter_server, servers: {count: 2, beside_workers: true}", 4, 4),
    "local SGD": ("method: local_sgd, every: 3", 4, 4),
    "gossip": ("method: gossip", 4, 4),
    "gossip with all that are near": ("method: gossip, neighbours: topology", 4, 4),
}


@pytest.fixture(scope="module")
def _namespaces() -> None:
    needs_namespaces()


def scenario_of(name: str, folder: Path) -> Scenario:
    sync, workers, hosts = MODES[name]
    path = folder / "plan.yaml"
    path.write_text(
        "workload: {kind: mlp, hidden: [256, 256], batch: 128}\n"
        f"partition: {{data: {workers}}}\nsync: {{{sync}}}\n"
        f"topology: {{builder: star, hosts: {hosts}, device: {{peak: 400 MFLOP/s, memory_bandwidth: 10 GB/s}},\n"
        "  link: {bandwidth: 200 Mb/s, latency: 1 us}}\n"
        "run: {steps: 15, warmup: 3, compute: emulated, backend: emulated, jitter: 0.2, learning: true,\n"
        "  timeout: 30 s}\n"
    )
    return load_scenario(str(path))


@pytest.mark.parametrize("name", MODES)
def test_updates_and_staleness_are_as_predicted(name: str, profile: Profile, tmp_path: Path) -> None:
    scenario = scenario_of(name, tmp_path)
    predicted = workflow.predict(scenario, profile, every_rank=True).timeline
    one = progress(predicted)

    def error() -> float:
        """Measure, check what no load can change, and give the largest error of what it can."""
        measured = workflow.measure(scenario, profile, lambda share: None).timeline
        assert structure_differences(predicted, measured) == ()
        other = progress(measured)
        assert other.loss_by_step[-1] < other.loss_by_step[0]
        pairs = (one.worker_steps_per_s, other.worker_steps_per_s), (one.loss_by_step[-1], other.loss_by_step[-1])
        return max(staleness_distance(one, other), *(abs(found / expected - 1) for found, expected in pairs))

    assert least_of_three(error, CLOSE) <= CLOSE
