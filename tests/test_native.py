"""The native engine: torch's own wrappers learn what one process learns, and do what our programs and papers say."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.command_line import Ended
from tests.test_transparency import Learnt, assert_equal, train_alone

from twinstep.compare import exchange_differences
from twinstep.exec.measure import measure_in
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import lower, own_names
from twinstep.sim import simulate
from twinstep.timeline import COMPUTE_LANE, Span, Timeline
from twinstep.topologies import load
from twinstep.workloads import describe

STEPS, WARMUP = 8, 2
BLOCKS, WIDTH, CONTEXT, VOCABULARY = 2, 32, 16, 256
GPT = {"kind": "gpt", "layers": BLOCKS, "heads": 2, "width": WIDTH, "context": CONTEXT, "batch": 8}
RUN = {"engine": "native", "steps": STEPS, "warmup": WARMUP, "seed": 3}
PLANS: dict[str, dict[str, Any]] = {
    "one rank": {"data": 1, "microbatches": 4},
    "replicas": {"data": 2},
    "replicas, accumulating": {"data": 2, "microbatches": 4},
    "optimizer": {"data": 2, "sharding": "optimizer"},
    "gradients": {"data": 2, "sharding": "gradients", "microbatches": 2},
    "parameters": {"data": 2, "sharding": "parameters"},
    "parameters, accumulating": {"data": 2, "sharding": "parameters", "microbatches": 2},
    "copies": {"data": 4, "sharding": "parameters", "sharding_copies": 2},
}
BLOCK_BYTES = 4 * (12 * WIDTH**2 + 2 * WIDTH)
ROOT_BYTES = 4 * (VOCABULARY * WIDTH + CONTEXT * WIDTH + WIDTH)
"""Both embeddings and the last norm; the head has the token embedding's weight."""

Exchanges = Counter[tuple[str, int, str]]
"""Kind, bytes and group of communications."""


class Ran(NamedTuple):
    plan: Plan
    timeline: Timeline
    learnt: Learnt


def plan_of(partition: dict[str, Any], **changes: Any) -> Plan:
    data: dict[str, Any] = {
        "workload": GPT,
        "partition": partition,
        "sync": {} if partition.get("sharding") in ("gradients", "parameters") else {"bucket": "8 KiB"},
        "topology": {"builder": "one_host", "devices": partition["data"], "device": "cpu"},
        "run": RUN,
    }
    return Plan.model_validate(data | changes)


def predicted(plan: Plan, profile: Profile) -> Timeline:
    programs = lower(plan)
    topology = load(plan.topology, folder=None)
    return simulate(plan, programs, topology, profile).timeline.unfolded(own_names(programs.groups))


def exchanges(timeline: Timeline, rank: int, step: int) -> Exchanges:
    """Count what a rank communicates in a step."""
    return Counter(
        (span.operation.partition("[")[0], span.size_bytes, span.group)
        for span in timeline.spans
        if (span.rank, span.step, span.phase) == (rank, step, "communication")
    )


def computed(timeline: Timeline, rank: int, step: int) -> list[Span]:
    """List the compute lane of a rank in a step."""
    return [span for span in timeline.spans if (span.rank, span.step, span.lane) == (rank, step, COMPUTE_LANE)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Give a function that runs a plan, once for all tests."""

    @cache
    def run(name: str) -> Ran:
        folder = tmp_path_factory.mktemp("run")
        plan = plan_of(PLANS[name])
        measured = measure_in(folder, plan, None, lambda step: None)
        parameters = torch.load(folder / "parameters.pt", weights_only=True)
        return Ran(plan, measured.timeline, Learnt(torch.tensor(measured.losses), parameters))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_torch_learns_what_one_process_learns(ran: Callable[[str], Ran], name: str) -> None:
    found = ran(name)
    assert_equal(found.learnt, train_alone(found.plan))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one rank", "replicas", "replicas, accumulating"])
def test_replicas_communicate_what_the_programs_predict(ran: Callable[[str], Ran], profile: Profile, name: str) -> None:
    found = ran(name)
    assert exchange_differences(predicted(found.plan, profile), found.timeline) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradients", "parameters", "parameters, accumulating"])
def test_sharded_ranks_communicate_what_was_published(ran: Callable[[str], Ran], name: str) -> None:
    """Two gathers of a block a microbatch, one where it stays gathered; one reduce-scatter a step.

    Source: Zhao et al., "PyTorch FSDP", VLDB 2023, section 3. The root stays gathered for its backward pass.
    """
    plan, timeline, _ = ran(name)
    passes = plan.partition.microbatches
    gathers = 2 * passes if plan.partition.sharding == "parameters" else passes
    expected: Exchanges = Counter(
        {
            ("all_gather", BLOCK_BYTES, "data"): BLOCKS * gathers,
            ("all_gather", ROOT_BYTES, "data"): passes,
            ("reduce_scatter", BLOCK_BYTES, "data"): BLOCKS,
            ("reduce_scatter", ROOT_BYTES, "data"): 1,
        }
    )
    for rank in range(plan.ranks):
        for step in range(WARMUP + STEPS):
            assert exchanges(timeline, rank, step) == expected


@pytest.mark.slow
def test_copies_sum_the_gradients_of_their_shards(ran: Callable[[str], Ran]) -> None:
    plan, timeline, _ = ran("copies")
    for rank in range(plan.ranks):
        sharding, copies = f"sharding {rank // 2}", f"copies {rank % 2}"
        assert exchanges(timeline, rank, WARMUP) == {
            ("all_gather", BLOCK_BYTES, sharding): 2 * BLOCKS,
            ("all_gather", ROOT_BYTES, sharding): 1,
            ("reduce_scatter", BLOCK_BYTES, sharding): BLOCKS,
            ("reduce_scatter", ROOT_BYTES, sharding): 1,
            ("all_reduce", BLOCK_BYTES // 2, copies): BLOCKS,
            ("all_reduce", ROOT_BYTES // 2, copies): 1,
        }


@pytest.mark.slow
def test_each_owner_of_optimizer_state_sends_its_parameters(ran: Callable[[str], Ran]) -> None:
    plan, timeline, _ = ran("optimizer")
    parameters_bytes = describe(plan.training, 1).memory_bytes()["parameters"]
    found = exchanges(timeline, 0, WARMUP)
    sent = [size for kind, size, _ in found.elements() if kind == "broadcast"]
    assert len(sent) == plan.ranks
    assert sum(sent) == parameters_bytes
    assert sum(size for kind, size, _ in found.elements() if kind == "all_reduce") == parameters_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_a_rank_does_one_thing_at_a_time(ran: Callable[[str], Ran], name: str) -> None:
    plan, timeline, _ = ran(name)
    steps = {(span.rank, span.step): span for span in timeline.spans if span.phase == "step"}
    assert steps.keys() == {(rank, step) for rank in range(plan.ranks) for step in range(WARMUP + STEPS)}
    for (rank, step), whole in steps.items():
        lane = computed(timeline, rank, step)
        assert whole.start_s <= lane[0].start_s
        assert lane[-1].end_s <= whole.end_s
        for earlier, later in pairwise(lane):
            assert earlier.start_s <= earlier.end_s <= later.start_s


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_every_layer_is_computed_in_every_microbatch(ran: Callable[[str], Ran], name: str) -> None:
    plan, timeline, _ = ran(name)
    numbers = [None] if plan.partition.microbatches == 1 else range(plan.partition.microbatches)
    layers = range(BLOCKS + 3)
    coordinates = [f"[layer={layer}]" if number is None else f"[layer={layer},microbatch={number}]"
                   for number in numbers for layer in layers]  # fmt: skip
    expected = {"load", "optimizer", *(f"{phase}{at}" for phase in ("forward", "backward") for at in coordinates)}
    for rank in range(plan.ranks):
        names = [span.operation for span in computed(timeline, rank, WARMUP) if not span.operation.startswith("wait")]
        assert set(names) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLANS if name != "one rank"])
def test_communication_ends_after_every_rank_has_joined(ran: Callable[[str], Ran], name: str) -> None:
    together: dict[tuple[int, str, str], list[Span]] = defaultdict(list)
    for span in ran(name).timeline.spans:
        if span.phase == "communication" and "broadcast" not in span.operation:
            together[span.step, span.group, span.operation].append(span)
    assert together
    for spans in together.values():
        assert len({span.rank for span in spans}) == len(spans) == 2
        assert min(span.end_s for span in spans) >= max(span.start_s for span in spans)


@pytest.mark.slow
def test_compare_runs_both_engines(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run_cli("compare", "gpt-data-parallel", "--set", "run.engine=native", "--set", "run.steps=3", "--set",
                    "workload.layers=1", "--out", tmp_path / "out", "--json")  # fmt: skip
    assert ended.code in (0, 1), ended.err
    facts = json.loads(ended.out)
    assert facts["structure"]["match"], facts["structure"]["differences"]
    assert facts["structure"]["compared"] == "kinds, counts, bytes and groups"
    assert facts["by_programs"]["structure"]["match"], facts["by_programs"]["structure"]["differences"]
    assert facts["by_programs"]["final_loss"] == pytest.approx(facts["measured"]["final_loss"], rel=1e-4)
