"""Plans in which whoever comes first goes on first: simulated often enough to say what chance makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.progress import pooled_staleness, progress, staleness_distance
from twinstep.sim import Simulation, simulate, simulate_by_chance
from twinstep.sim import ensemble as sim_ensemble
from twinstep.sim.ensemble import Ensemble, beginning_of, simulations_of
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
        15,
        15,
        7,
        5,
        1,
        1,
    ]


LONG_RUNS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("400 Mb/s", 1, {"mode": "asynchronous"}),
    ("20 Mb/s", 1, {"mode": "asynchronous"}),
    ("20 Mb/s", 3, {"mode": "asynchronous"}),
    ("20 Mb/s", 1, {"mode": "stale_synchronous", "bound": 3}),
)


@pytest.mark.slow
@pytest.mark.parametrize(("bandwidth", "servers", "sync"), LONG_RUNS)
def test_the_beginning_of_a_long_run_tells_its_rates(
    monkeypatch: pytest.MonkeyPatch, bandwidth: str, servers: int, sync: dict[str, Any]
) -> None:
    """Of a run that is long enough to be cut, once its whole is simulated: rates within 2 %, staleness within 0.1."""
    plan = plan_of(sync | {"servers": {"count": servers}}, steps=200)
    topology = plan.topology.model_copy(update={"link": {"bandwidth": bandwidth, "latency": "1 us"}, "hosts": 40})
    plan = Plan.model_validate(plan.model_dump() | {"topology": topology.model_dump(), "partition": {"data": 32}})
    monkeypatch.setattr(sim_ensemble, "_LONG", 5_000)
    monkeypatch.setattr(sim_ensemble, "_BEGINNING", 1_000)
    programs, built = lower(plan), build(plan.topology)
    part = simulate_by_chance(plan, programs, built, None).median
    whole = simulate_by_chance(plan, programs, built, None, whole=True).median
    assert (part.timeline.begins_steps, whole.timeline.begins_steps) == (200, 0)
    assert part.effects < whole.effects / 5
    found, expected = progress(part.timeline), progress(whole.timeline)
    assert found.worker_steps_per_s == pytest.approx(expected.worker_steps_per_s, rel=0.02)
    assert staleness_distance(found, expected) < 0.1


@pytest.mark.parametrize(
    "run",
    [{"steps": 20}, {"learning": True, "deaths": []}, {"deaths": [{"rank": 1, "at": "1 s"}]}],
    ids=["short", "learns", "death"],
)
def test_what_is_short_or_depends_on_the_time_of_the_run_is_simulated_whole(
    monkeypatch: pytest.MonkeyPatch, run: dict[str, Any]
) -> None:
    monkeypatch.setattr(sim_ensemble, "_LONG", 500)
    assert beginning_of(plan_of(MODES[0], **({"steps": 200} | run))) is None
    assert beginning_of(plan_of(MODES[0], steps=2000)) is not None
