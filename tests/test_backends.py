"""One suite over both back ends: the simulator and the executor make the same kind of timeline of the same plan."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from twinstep.compare import structure_differences
from twinstep.exec.measure import measure
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import lower, own_names
from twinstep.scenario import Scenario, load_scenario
from twinstep.sim import simulate
from twinstep.timeline import COMPUTE_LANE, Span, Timeline
from twinstep.workloads import Parameter, describe

MLP = "kind: mlp, hidden: [64, 48, 32], batch: 12"
GPT = "kind: gpt, layers: 2, heads: 2, width: 32, context: 8, batch: 6"
REGRESSION = "kind: linear_regression, polynomial_degree: 2"
CORE = "cpu"
RATES = "{peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s, overhead: 20 us}"

# Workload, ranks, device, bucket and overlap, and what else is run.
PLANS = {
    "one rank": (MLP, 1, CORE, "bucket: 8 KiB", ""),
    "two ranks": (MLP, 2, CORE, "bucket: 8 KiB", ""),
    "two ranks without overlap": (MLP, 2, CORE, "bucket: 8 KiB, overlap: false", ""),
    "uneven shards": (REGRESSION, 3, CORE, "bucket: 1 MiB", ""),
    "tied head": (GPT, 2, CORE, "bucket: 16 KiB", ""),
    "straggler": (MLP, 2, CORE, "bucket: 8 KiB", "stragglers: [{rank: 1, slowdown: 1.5}]"),
    "emulated": (GPT, 3, RATES, "bucket: 16 KiB", "compute: emulated"),
    "emulated straggler": (MLP, 2, RATES, "overlap: false", "compute: emulated, stragglers: [{rank: 1, slowdown: 2}]"),
}
STEPS, WARMUP = 4, 2
ROUNDING_S = 1e-9
"""Times of the executor are whole nanoseconds."""

Run = Callable[[str, str], Timeline]


def scenario_of(name: str, folder: Path) -> Scenario:
    workload, ranks, device, sync, run = PLANS[name]
    path = folder / "plan.yaml"
    path.write_text(
        f"workload: {{{workload}}}\npartition: {{data: {ranks}}}\nsync: {{{sync}}}\n"
        f"topology: {{builder: one_host, devices: {ranks}, device: {device}}}\n"
        f"run: {{steps: {STEPS}, warmup: {WARMUP}, {run}}}\n"
    )
    return load_scenario(str(path))


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    return lambda name: scenario_of(name, tmp_path_factory.mktemp("plan")).plan


@pytest.fixture(scope="module")
def run(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Give a function that runs a plan on a back end, once for all tests."""

    @cache
    def run_once(backend: str, name: str) -> Timeline:
        scenario = scenario_of(name, tmp_path_factory.mktemp("plan"))
        plan = scenario.plan
        if backend == "sim":
            programs = lower(plan)
            return simulate(plan, programs, scenario.topology, profile).timeline.unfolded(own_names(programs.groups))
        return measure(plan, profile, lambda step: None).timeline

    return run_once


@pytest.fixture(scope="module", params=["sim", pytest.param("exec", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=PLANS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def timeline(run: Run, backend: str, name: str) -> Timeline:
    return run(backend, name)


def by_rank(timeline: Timeline) -> list[list[Span]]:
    spans: dict[int, list[Span]] = defaultdict(list)
    for span in timeline.spans:
        spans[span.rank].append(span)
    assert sorted(spans) == list(range(timeline.ranks))
    return [spans[rank] for rank in range(timeline.ranks)]


def test_every_rank_takes_every_step_in_turn(timeline: Timeline) -> None:
    assert timeline.warmup_steps == WARMUP
    for spans in by_rank(timeline):
        steps = [span for span in spans if span.phase == "step"]
        assert [span.step for span in steps] == list(range(WARMUP + STEPS))
        for earlier, later in pairwise(steps):
            assert earlier.end_s <= later.start_s


def test_every_rank_ends_with_the_optimizer(timeline: Timeline) -> None:
    for spans in by_rank(timeline):
        last = max((span for span in spans if span.lane == COMPUTE_LANE), key=lambda span: span.end_s)
        assert (last.operation, last.step) == ("optimizer", WARMUP + STEPS - 1)


def test_times_are_finite_and_not_negative(timeline: Timeline) -> None:
    for span in timeline.spans:
        assert 0 <= span.start_s <= span.end_s < math.inf


def test_spans_come_by_rank_and_start(timeline: Timeline) -> None:
    keys = [(span.rank, span.start_s) for span in timeline.spans]
    assert keys == sorted(keys)


def test_compute_lane_does_one_thing_at_a_time(timeline: Timeline) -> None:
    for spans in by_rank(timeline):
        lane = [span for span in spans if span.lane == COMPUTE_LANE]
        for earlier, later in pairwise(sorted(lane, key=lambda span: (span.start_s, span.end_s))):
            assert earlier.end_s <= later.start_s + ROUNDING_S


def test_spans_lie_within_their_step(timeline: Timeline) -> None:
    for spans in by_rank(timeline):
        steps = {span.step: span for span in spans if span.phase == "step"}
        for span in spans:
            step = steps[span.step]
            assert step.start_s <= span.start_s + ROUNDING_S
            assert span.end_s <= step.end_s + ROUNDING_S


def test_waits_end_after_what_they_wait_for(timeline: Timeline) -> None:
    collectives = {(s.rank, s.step, f"wait[{s.operation}]"): s for s in timeline.spans if s.phase == "communication"}
    waits = {(s.rank, s.step, s.operation): s for s in timeline.spans if s.phase == "exposed_communication"}
    assert waits.keys() == collectives.keys()
    for key, wait in waits.items():
        assert wait.start_s >= collectives[key].start_s
        assert wait.end_s >= collectives[key].end_s - ROUNDING_S


def test_all_reduce_ends_after_every_rank_has_joined(timeline: Timeline) -> None:
    together: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in timeline.spans:
        if span.phase == "communication":
            together[span.step, span.operation].append(span)
    for spans in together.values():
        assert [span.rank for span in spans] == list(range(timeline.ranks))
        assert min(span.end_s for span in spans) >= max(span.start_s for span in spans)


def test_operations_are_those_of_the_program(timeline: Timeline, name: str, plan_of: Callable[[str], Plan]) -> None:
    """The lanes of a step, in order, written down from the plan alone."""
    plan = plan_of(name)
    model = describe(plan.training, 1)
    layers = range(len(model.layers))
    before = [*(["load"] if model.load else []), *(f"forward[layer={layer}]" for layer in layers)]
    backward = [f"backward[layer={layer}]" for layer in reversed(layers)]
    for spans in by_rank(timeline):
        for step in range(WARMUP + STEPS):
            lane = [s.operation for s in spans if s.step == step and s.lane == COMPUTE_LANE]
            computed = [operation for operation in lane if not operation.startswith("wait")]
            assert computed == [*before, *backward, "optimizer"]
            issued = [s.operation for s in spans if s.step == step and s.phase == "communication"]
            assert [operation for operation in lane if operation.startswith("wait")] == [f"wait[{o}]" for o in issued]


def test_every_gradient_is_reduced_once(timeline: Timeline, name: str, plan_of: Callable[[str], Plan]) -> None:
    parameters: tuple[Parameter, ...] = describe(plan_of(name).training, 1).parameters
    size_bytes = sum(parameter.size_bytes for parameter in parameters)
    sent: dict[tuple[int, int], int] = defaultdict(int)
    for span in timeline.spans:
        if span.phase == "communication":
            assert span.group == "data"
            sent[span.rank, span.step] += span.size_bytes
    together = [(rank, step) for rank in range(timeline.ranks) for step in range(WARMUP + STEPS)]
    assert sent == (dict.fromkeys(together, size_bytes) if timeline.ranks > 1 else {})


def test_without_overlap_nothing_is_computed_during_communication(run: Run, backend: str) -> None:
    for name in ("two ranks without overlap", "emulated straggler"):
        for spans in by_rank(run(backend, name)):
            computed = [s for s in spans if s.lane == COMPUTE_LANE and s.phase != "exposed_communication"]
            for communicated in (s for s in spans if s.phase == "communication"):
                for span in computed:
                    before = span.end_s <= communicated.start_s + ROUNDING_S
                    assert before or span.start_s >= communicated.end_s - ROUNDING_S


def test_with_overlap_several_buckets_travel_before_the_first_is_waited_for(run: Run, backend: str) -> None:
    for spans in by_rank(run(backend, "two ranks")):
        for step in range(WARMUP + STEPS):
            issued = [s.start_s for s in spans if s.step == step and s.phase == "communication"]
            waited = [s.start_s for s in spans if s.step == step and s.phase == "exposed_communication"]
            assert len(issued) > 1
            assert max(issued) <= min(waited)


def test_emulated_straggler_computes_twice_as_long(run: Run, backend: str) -> None:
    normal, slow = by_rank(run(backend, "emulated straggler"))
    pairs = zip(*([s for s in spans if s.phase in ("forward", "backward")] for spans in (normal, slow)), strict=True)
    for span, slow_span in pairs:
        assert span.operation == slow_span.operation
        assert slow_span.duration_s == pytest.approx(2 * span.duration_s, abs=2 * ROUNDING_S)


@pytest.mark.slow
def test_both_back_ends_do_the_same(run: Run, name: str) -> None:
    assert structure_differences(run("sim", name), run("exec", name)) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLANS if name.startswith("emulated")])
def test_emulated_computations_take_the_simulated_time(run: Run, name: str) -> None:
    simulated, executed = (
        {
            (s.rank, s.step, s.operation): s.duration_s
            for s in run(backend, name).spans
            if s.lane == COMPUTE_LANE and s.phase != "exposed_communication"
        }
        for backend in ("sim", "exec")
    )
    assert simulated.keys() == executed.keys()
    for key, duration_s in simulated.items():
        assert executed[key] == pytest.approx(duration_s, abs=2 * ROUNDING_S)
