"""Parameter servers: closed forms, the modes' laws, and what is learnt, on one back end and on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small_plans import BYTES_PER_S, HOP_S, REGRESSION, WIDE, make, predict, star

from twinstep.compare import structure_differences
from twinstep.effects import Transfer
from twinstep.exec.measure import measure
from twinstep.learning.data import DataSet, diabetes
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.plan import Plan
from twinstep.programs import first_steps, lower, shards
from twinstep.scenario import load_scenario
from twinstep.sim import simulate
from twinstep.timeline import Timeline

RUN: dict[str, Any] = {"steps": 12, "warmup": 0, "compute": "emulated", "jitter": 0.3}
IDEAL = {"library": "ideal"}


def served(
    workers: int, servers: dict[str, Any] | None = None, sync: dict[str, Any] | None = None, **changes: Any
) -> Timeline:
    """Predict workers and servers around a switch."""
    who = {"count": 1} | (servers or {})
    method = {"method": "parameter_server", "servers": who} | (sync or {})
    hosts = workers + (0 if who.get("beside_workers") else who["count"])
    known = {"workload": REGRESSION, "run": RUN, "communication": IDEAL} | changes
    plan, topology = make(star(hosts), partition={"data": workers}, sync=method, **known)
    return predict(plan, topology).timeline


def observed(timeline: Timeline, name: str) -> list[float]:
    return [each.value for each in timeline.observations if each.name == name]


def losses(timeline: Timeline) -> list[float]:
    """Give what workers have observed, in order of steps, then of ranks."""
    found = sorted((each.step, each.rank, each.value) for each in timeline.observations if each.name == "loss")
    return [value for *_, value in found]


def model_bytes(workload: dict[str, Any], workers: int) -> int:
    plan, _ = make(star(workers), workload=workload, partition={"data": workers})
    return sum(p.size_bytes for p in lower(plan).model(0).parameters)  # type: ignore[attr-defined]


def test_what_somebody_waits_for_is_sent_before_anything_is_awaited() -> None:
    """To begin to receive takes a notice's time: a worker pushes first, and a server answers first."""
    plan, _ = make(star(2), workload=REGRESSION, partition={"data": 1}, sync={"method": "parameter_server"}, run=RUN)
    transfers = {
        rank: [each.kind for each in first_steps(lower(plan).program(rank)) if isinstance(each, Transfer)]
        for rank in range(2)
    }
    assert transfers == {0: ["send", "recv"], 1: ["recv", "send", "recv"]}


@pytest.mark.parametrize("servers", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 4, 8])
def test_bulk_synchrony_costs_the_incast_both_ways(workers: int, servers: int) -> None:
    """2 n S/(k B) where servers' links are the limit, 2 S/B where the workers' are; computing comes on top."""
    run = {"steps": 3, "warmup": 0, "compute": "emulated"}
    timeline = served(workers, {"count": servers}, workload=WIDE, run=run)
    own_s = sum(
        span.duration_s
        for span in timeline.spans
        if (span.rank, span.step, span.lane) == (0, 1, "compute") and span.phase in ("load", "forward", "backward")
    )
    update_s = sum(span.duration_s for span in timeline.spans if span.phase == "optimizer" and span.rank == workers) / (
        3 * workers
    )
    links_s = max(workers / servers, 1) * model_bytes(WIDE, workers) / BYTES_PER_S
    expected = own_s + 2 * (links_s + HOP_S) + workers * update_s
    assert timeline.step_time_s() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("bound", [0, 1, 2, 5])
def test_parameters_never_lack_more_steps_of_a_worker_than_the_bound(bound: int, seed: int) -> None:
    run = RUN | {"seed": seed, "jitter": 1.0}
    timeline = served(5, sync={"mode": "stale_synchronous", "bound": bound}, run=run)
    lags = observed(timeline, "lag")
    assert len(lags) == 5 * RUN["steps"]
    assert max(lags) <= bound
    assert bound > 2 or max(lags) == bound


def times(timeline: Timeline) -> list[tuple[int, str, float]]:
    return [(span.rank, span.operation, span.end_s) for span in timeline.spans]


def test_a_bound_of_zero_is_bulk_synchrony_and_a_large_one_is_none() -> None:
    learning = {"run": RUN | {"learning": True}}
    bulk, zero = served(4, **learning), served(4, sync={"mode": "stale_synchronous", "bound": 0}, **learning)
    assert times(bulk) == times(zero)
    assert observed(bulk, "loss") == pytest.approx(observed(zero, "loss"), rel=1e-5)
    free, large = (
        served(4, sync=sync, **learning)
        for sync in ({"mode": "asynchronous"}, {"mode": "stale_synchronous", "bound": 100})
    )
    assert times(free) == times(large)
    assert observed(free, "loss") == observed(large, "loss")
    assert observed(free, "staleness") == observed(large, "staleness")


def test_staleness_counts_the_others_between_pull_and_push() -> None:
    """With equal workers and no jitter each gradient is n - 1 updates old, once all have begun."""
    calm = RUN | {"jitter": 0.0}
    assert set(observed(served(4, run=calm), "staleness")) == {0}
    found = observed(served(4, sync={"mode": "asynchronous"}, run=calm), "staleness")
    assert found[:4] == [0, 1, 2, 3]
    assert set(found[4:]) == {3}
    assert set(observed(served(1, sync={"mode": "asynchronous"}), "staleness")) == {0}


def test_backup_workers_hide_a_straggler() -> None:
    """Of four workers one is five times slower: nobody waits for it, and its gradients are dropped."""
    run = {"steps": 10, "warmup": 0, "compute": "emulated", "stragglers": [{"rank": 3, "slowdown": 50}]}
    even = {"steps": 10, "warmup": 0, "compute": "emulated"}
    with_all, without = (served(4, sync={"backups": backups}, workload=WIDE, run=run) for backups in (0, 1))
    fast = served(3, workload=WIDE | {"batch": 180}, run=even)
    ends = [max(s.end_s for s in t.spans if s.lane == "step" and s.rank == 0) for t in (with_all, without, fast)]
    assert ends[1] < ends[0] / 2
    assert ends[1] == pytest.approx(ends[2], rel=0.1)


def alone(plan: Plan) -> list[float]:
    """Train in one process: the mean loss of every worker's samples in every step, in order of steps."""
    data, model = diabetes(2), layers_of(plan.training)  # type: ignore[arg-type]
    parameters = model.initial(plan.run.seed)
    updates = Updates(plan.training.optimizer, model.elements)
    losses = []
    for _ in range(plan.total_steps):
        gradient = np.zeros_like(parameters)
        for shard in shards(plan.training.samples, plan.workers):
            rows = slice(shard.start, shard.stop)
            loss, part = model.gradient(parameters, DataSet(data.inputs[rows], data.targets[rows]))
            losses.append(loss / len(shard))
            gradient += part / np.float32(plan.training.samples)
        updates.apply(parameters, gradient)
    return losses


SERVERS = [{"count": 1}, {"count": 3}, {"count": 2, "keys": "consistent_hash", "block": "32 B"}]


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("servers", SERVERS)
def test_bulk_synchrony_learns_what_one_process_learns(servers: dict[str, Any], kind: str) -> None:
    workload = REGRESSION | {"optimizer": {"kind": kind, "learning_rate": 0.02}}
    timeline = served(3, servers, workload=workload, run=RUN | {"learning": True})
    plan, _ = make(star(3), workload=workload, partition={"data": 3}, run={"steps": 12, "warmup": 0})
    assert losses(timeline) == pytest.approx(alone(plan), rel=1e-5)


def test_servers_beside_workers_need_no_hosts_of_their_own() -> None:
    beside = served(4, {"count": 2, "beside_workers": True})
    assert beside.ranks == 6
    assert len(beside.steps()) == RUN["steps"]


def test_the_same_plan_gives_the_same_timeline() -> None:
    sync = {"mode": "asynchronous"}
    one, other = (served(5, {"count": 2}, sync, run=RUN | {"learning": True}) for _ in range(2))
    assert one == other


def scenario(folder: Path, sync: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(
        f"workload: {{kind: mlp, hidden: [32], batch: 60}}\npartition: {{data: 3}}\n"
        f"sync: {{method: parameter_server, servers: {{count: 2}}, {sync}}}\n"
        "topology: {builder: one_host, devices: 5, device: {peak: 1 GFLOP/s, memory_bandwidth: 10 MB/s}}\n"
        "run: {steps: 8, warmup: 1, compute: emulated, jitter: 0.2, learning: true, timeout: 30 s}\n"
    )
    return path


MODES = ["mode: bulk_synchronous", "mode: asynchronous", "mode: stale_synchronous, bound: 1"]


@pytest.mark.slow
@pytest.mark.parametrize("sync", MODES)
def test_the_executor_does_what_the_simulator_does(sync: str, tmp_path: Path, profile: Any) -> None:
    loaded = load_scenario(str(scenario(tmp_path, sync)))
    measured = measure(loaded.plan, profile, lambda step: None).timeline
    predicted = simulate(loaded.plan, lower(loaded.plan), loaded.topology, profile).timeline
    assert structure_differences(predicted, measured) == ()
    for name in ("loss", "lag", "staleness"):
        assert len(observed(predicted, name)) == len(observed(measured, name))
    if "bulk" in sync:
        assert losses(predicted) == pytest.approx(losses(measured), rel=1e-5)
    if "bound" in sync:
        assert max(observed(measured, "lag")) <= 1


def test_observations_come_in_the_order_of_time() -> None:
    timeline = served(4, sync={"mode": "asynchronous"}, run=RUN | {"learning": True, "jitter": 1.0})
    times_s = [each.time_s for each in timeline.observations]
    assert times_s == sorted(times_s)


@pytest.mark.parametrize("mode", ["bulk_synchronous", "asynchronous"])
def test_a_message_takes_from_its_own_sending_to_its_own_arrival(mode: str) -> None:
    """A server is ready for the next gradient long before it is sent, and counts steps of its own."""
    run = {"steps": 6, "warmup": 0, "compute": "emulated"}
    timeline = served(1, sync={"mode": mode}, workload=WIDE, run=run)
    alone_s = model_bytes(WIDE, 1) / BYTES_PER_S + HOP_S
    times = timeline.collectives_by_step_s()
    assert times["send gradients[hop=0>1]"] == pytest.approx([alone_s] * 6, rel=1e-3)
    assert times["send parameters[hop=1>0]"] == pytest.approx([alone_s] * 6, rel=1e-3)


def test_others_traffic_ends_where_servers_wait_in_vain() -> None:
    """Traffic of others does not keep a finished run going."""
    background = [{"kind": "flow", "source": "host0", "target": "host1", "size": "1 MiB"}]
    assert len(served(2, run=RUN | {"background": background}).steps()) == RUN["steps"]


def test_many_workers_take_all_their_steps() -> None:
    """256 workers and 20 asynchronous steps; what an effect costs among many is bounded by tests/test_speed.py."""
    run = {"steps": 20, "warmup": 0, "compute": "emulated"}
    timeline = served(256, sync={"mode": "asynchronous"}, run=run)
    assert len(observed(timeline, "staleness")) == 256 * 20
