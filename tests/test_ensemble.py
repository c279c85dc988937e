"""Plans in which whoever comes first goes on first: simulated often enough to say what chance makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinstep import workflow
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.progress import pooled_staleness, progress, staleness_distance
from twinstep.scenario import load_scenario
from twinstep.sim import Simulation, simulate, simulate_by_chance
from twinstep.sim import ensemble as sim_ensemble
from twinstep.sim.ensemble import Ensemble, beginning_of, simulations_of
from twinstep.timeline_lines import from_json_lines, to_json_lines
from twinstep.topologies import build

MODES: tuple[dict[str, Any], ...] = (
    {"mode": "asynchronous"},
    {"mode": "stale_synchronous", "bound": 1},
    {"mode": "bulk_synchronous", "backups": 2},
)


def plan_of(sync: dict[str, Any], **run: Any) -> Plan:
    """Let six workers share a slow link to a server."""
    return Plan.model_validate(
        {
            "workload": {"kind": "mlp", "hidden": [64], "batch": 96},
            "partition": {"data": 6},
            "sync": {"method": "parameter_server"} | sync,
            "topology": {
                "builder": "star",
                "hosts": 7,
                "device": {"peak": "30 MFLOP/s", "memory_bandwidth": "10 GB/s"},
                "link": {"bandwidth": "40 Mb/s", "latency": "1 us"},
            },
            "run": {"steps": 20, "warmup": 2, "compute": "emulated", "jitter": 0.2} | run,
        }
    )


def ensemble(plan: Plan) -> Ensemble:
    """Predict without measured costs."""
    return simulate_by_chance(plan, lower(plan), build(plan.topology), None)


def one(plan: Plan, chance: int | None) -> Simulation:
    """Simulate once."""
    return simulate(plan, lower(plan), build(plan.topology), None, chance=chance)


def rate(simulation: Simulation) -> float:
    """Give steps of all workers a second."""
    return progress(simulation.timeline).worker_steps_per_s


@pytest.mark.parametrize("sync", MODES, ids=lambda sync: sync["mode"])
def test_the_median_of_an_ensemble_stands_for_it(sync: dict[str, Any]) -> None:
    plan = plan_of(sync)
    found = ensemble(plan)
    assert found.spread is not None
    rates = found.spread.worker_steps_per_s
    assert list(rates) == sorted(rate(one(plan, chance)) for chance in range(simulations_of(plan)))
    assert rate(found.median) == rates[len(rates) // 2]
    assert sum(found.spread.staleness.values()) == pytest.approx(1)


def test_a_thousandth_decides_on_the_course_of_events() -> None:
    """Computations differ by a thousandth, whose mean over a run is far less; rates by half a percent."""
    found = ensemble(plan_of({"mode": "asynchronous"})).spread
    assert found is not None
    assert found.worker_steps_per_s[-1] / found.worker_steps_per_s[0] > 1.005


def test_what_chance_makes_of_a_plan_does_not_depend_on_the_seeds() -> None:
    """Other simulations of the same plan have the same distribution of staleness, where two single ones differ."""
    plan = plan_of({"mode": "asynchronous"})
    found = ensemble(plan).spread
    assert found is not None
    whole = progress(one(plan, None).timeline, found)
    others = [progress(one(plan, chance).timeline) for chance in range(100, 115)]
    distances = [staleness_distance(whole, other) for other in others]
    together = staleness_distance(whole, replace(whole, staleness=pooled_staleness(others)))
    assert together < min(0.05, sum(distances) / len(distances))


def test_learning_follows_the_median_and_changes_no_time() -> None:
    sync = {"mode": "asynchronous"}
    found, without = ensemble(plan_of(sync, learning=True)), ensemble(plan_of(sync))
    assert found.spread == without.spread
    assert rate(found.median) == rate(without.median)
    assert progress(found.median.timeline).loss_by_step


@pytest.mark.parametrize("sync", [{"mode": "bulk_synchronous"}, {"method": "all_reduce"}, {"method": "gossip"}])
def test_ranks_that_wait_for_all_are_simulated_once(sync: dict[str, Any]) -> None:
    plan = plan_of(sync)
    found = ensemble(plan)
    assert found.spread is None
    assert found.median.timeline == one(plan, None).timeline


def test_many_steps_need_fewer_simulations() -> None:
    sync = {"mode": "asynchronous"}
    assert [simulations_of(plan_of(sync, steps=steps)) for steps in (1, 20, 100, 200, 700, 100_000)] == [
        9,
        9,
        5,
        3,
        1,
        1,
    ]


LONG_RUNS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("400 Mb/s", 1, {"mode": "asynchronous"}),
    ("20 Mb/s", 1, {"mode": "asynchronous"}),
    ("20 Mb/s", 1, {"mode": "stale_synchronous", "bound": 1}),
)


def long_plan(**changes: Any) -> Plan:
    """Let 32 workers take 160 steps."""
    described = plan_of({"mode": "asynchronous"}, steps=160).model_dump(mode="json")
    topology = {
        "builder": "star",
        "hosts": 40,
        "device": {"peak": "30 MFLOP/s", "memory_bandwidth": "10 GB/s"},
        "link": {"bandwidth": "20 Mb/s", "latency": "1 us"},
    }
    return Plan.model_validate(described | {"topology": topology, "partition": {"data": 32}} | changes)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be long that a test can simulate."""
    monkeypatch.setattr(sim_ensemble, "_LONG", 5_000)
    monkeypatch.setattr(sim_ensemble, "_WORKER_STEPS", 640)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("bandwidth", "servers", "sync"), LONG_RUNS)
def test_the_beginning_of_a_long_run_tells_its_rates(bandwidth: str, servers: int, sync: dict[str, Any]) -> None:
    """A quarter of the steps, of which the latter half counts: rates within 5 %, staleness within 0.1 of all."""
    link = {"bandwidth": bandwidth, "latency": "1 us"}
    topology = long_plan().topology.model_dump(mode="json") | {"link": link}
    plan = long_plan(sync=sync | {"method": "parameter_server", "servers": {"count": servers}}, topology=topology)
    programs, built = lower(plan), build(plan.topology)
    part = simulate_by_chance(plan, programs, built, None).median
    whole = simulate_by_chance(plan, programs, built, None, whole=True).median
    assert (part.timeline.of_steps, whole.timeline.of_steps) == (plan.total_steps, 0)
    assert part.effects < whole.effects / 3
    found, expected = progress(part.timeline), progress(whole.timeline)
    assert found.worker_steps_per_s == pytest.approx(expected.worker_steps_per_s, rel=0.05)
    assert staleness_distance(found, expected) < 0.1
    assert from_json_lines(to_json_lines(part.timeline)).of_steps == plan.total_steps


CHANGES: dict[str, dict[str, Any]] = {
    "learns": {"learning": True},
    "death": {"deaths": [{"rank": 1, "at": "1 s"}]},
    "straggler": {"stragglers": [{"rank": 1, "slowdown": 3}]},
    "link fails": {"link_changes": [{"source": "host1", "target": "switch", "at": "1 s", "bandwidth": "1 Mb/s"}]},
    "short": {"steps": 20},
}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_short_or_not_the_same_all_along_is_simulated_whole(change: str) -> None:
    plan = long_plan()
    assert beginning_of(plan, build(plan.topology)) is not None
    run = plan.run.model_dump(mode="json") | CHANGES[change]
    changed = long_plan(run=run)
    assert beginning_of(changed, build(changed.topology)) is None


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "changes",
    [
        {"partition": {"data": 32, "placement": "hash"}},
        {
            "sync": {
                "method": "parameter_server",
                "mode": "asynchronous",
                "servers": {"count": 1, "beside_workers": True},
            }
        },
    ],
    ids=["more samples", "a server beside one"],
)
def test_workers_of_different_speed_are_simulated_whole(changes: dict[str, Any]) -> None:
    plan = long_plan(**changes)
    assert beginning_of(plan, build(plan.topology)) is None


@pytest.mark.usefixtures("short")
def test_a_bound_that_the_beginning_cannot_meet_needs_more_of_the_run() -> None:
    sync = {"method": "parameter_server", "mode": "stale_synchronous"}
    steps = []
    for bound in (1, 3, 100):
        plan = long_plan(sync=sync | {"bound": bound})
        beginning = beginning_of(plan, build(plan.topology))
        steps.append(beginning.run.steps if beginning else plan.run.steps)
    assert steps == [20, 30, 160]


def test_of_1000_steps_of_256_workers_the_first_40_are_simulated() -> None:
    described = long_plan().model_dump(mode="json")
    plan = Plan.model_validate(
        described
        | {"partition": {"data": 256}, "workload": {"kind": "mlp", "hidden": [64], "batch": 256}}
        | {"topology": described["topology"] | {"hosts": 257}, "run": {"steps": 1000, "compute": "emulated"}}
    )
    beginning = beginning_of(plan, build(plan.topology))
    assert beginning is not None
    assert beginning.total_steps == 40


def test_a_beginning_says_that_it_is_one(tmp_path: Path) -> None:
    scenario = tmp_path / "long.yaml"
    described = plan_of({"mode": "asynchronous"}, steps=40_000).model_dump(mode="json")
    scenario.write_text(
        json.dumps({key: described[key] for key in ("workload", "partition", "sync", "topology", "run")})
    )
    loaded = load_scenario(str(scenario))
    shown = workflow.contents(loaded, None, workflow.predict(loaded, None), None)
    assert any("Simulated are the first 420 of 40002 steps of every worker" in each for each in shown.cautions)
