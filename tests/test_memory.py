"""What a rank is said to hold is what torch allocates, and what published formulas say."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.ranks import run_ranks
from tests.torch_memory import OneProcess, bytes_of, measure_rank, most_allocated_bytes

from twinstep import workflow
from twinstep.effects import Compute
from twinstep.errors import InputError
from twinstep.memory import check_memory, memory_over_time, smallest_change
from twinstep.plan import Plan
from twinstep.programs import Hybrid, lower
from twinstep.programs.ledger import Entry
from twinstep.scenario import Scenario, load_scenario
from twinstep.workloads import Gpt, describe

SCALAR_BYTES = 4
"""The loss and its weight."""
SHAPES = {
    "small": {"layers": 2, "heads": 4, "width": 64, "context": 32, "batch": 8},
    "wide": {"layers": 3, "heads": 4, "width": 192, "context": 16, "batch": 4},
    "long": {"layers": 2, "heads": 2, "width": 64, "context": 256, "batch": 4},
    "deep": {"layers": 8, "heads": 2, "width": 32, "context": 32, "batch": 16},
    "few samples": {"layers": 2, "heads": 8, "width": 256, "context": 8, "batch": 4},
}


def plan_of(shape: dict[str, Any], kind: str = "adamw", **partition: Any) -> Plan:
    workload = {"kind": "gpt", "optimizer": {"kind": kind}} | shape
    degrees = [partition.get(name, 1) for name in ("data", "tensor", "context", "pipeline")]
    ranks = degrees[0] * degrees[1] * degrees[2] * degrees[3]
    return Plan.model_validate(
        {
            "workload": workload,
            "partition": partition,
            "topology": {"builder": "one_host", "devices": ranks, "device": "cpu"},
            "run": {"compute": "emulated"},
        }
    )


def one_process(plan: Plan) -> OneProcess:
    assert isinstance(plan.workload, Gpt)
    partition = plan.partition
    return OneProcess(plan.workload, partition.microbatches, recomputes=partition.recompute == "full")


def peak_of(plan: Plan, rank: int = 0) -> dict[str, int]:
    return Hybrid(plan).memory_bytes(rank)


def within(found: float, expected: float, tolerance: float) -> bool:
    return abs(found - expected) <= tolerance * expected


@pytest.mark.parametrize("shape", SHAPES)
def test_autograd_keeps_what_is_said(shape: str) -> None:
    plan = plan_of(SHAPES[shape])
    (chunk,) = Hybrid(plan).account(0).chunks
    assert one_process(plan).saved_bytes() == sum(mark.kept for mark in chunk.footprints) + SCALAR_BYTES


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_gradients_and_state_are_torchs(shape: str, kind: str) -> None:
    plan = plan_of(SHAPES[shape], kind)
    process = one_process(plan)
    process.step(clear=False)
    parameters, gradients = bytes_of(process.layers)
    predicted = [entry.during for entry in Hybrid(plan).ledger(0)][-1]
    assert (predicted.parameters, predicted.gradients) == (parameters, gradients)
    assert within(predicted.optimizer_state, process.state_bytes(), 0.02) or predicted.optimizer_state == 0
    assert (predicted.optimizer_state == 0) == (kind == "sgd")


QUICK = [("few samples", "sgd", 1, "none")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in product(SHAPES, ("sgd", "momentum", "adamw"), (1, 4), ("none", "full"))
]


@pytest.mark.parametrize(("shape", "kind", "microbatches", "recompute"), CASES)
def test_the_peak_is_torchs(shape: str, kind: str, microbatches: int, recompute: str) -> None:
    plan = plan_of(SHAPES[shape], kind, microbatches=microbatches, recompute=recompute)
    process = one_process(plan)
    process.step()
    before = bytes_of(process.layers)[0] + process.state_bytes()
    measured = before + most_allocated_bytes(process.step)
    predicted = peak_of(plan)["total"]
    print(f"{(predicted - measured) / measured:+.3%}")
    assert within(predicted, measured, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "gradients", "parameters"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_peak_of_ranks_that_share_is_torchs(sharding: str, microbatches: int, tmp_path: Path) -> None:
    plan = plan_of(SHAPES["wide"], data=2, sharding=sharding, microbatches=microbatches)
    held, most = run_ranks(measure_rank, 2, tmp_path, plan)[0]
    last = [*Hybrid(plan).ledger(0)][-1].after
    print(f"{(sum(last) - held) / held:+.3%} {(peak_of(plan)['total'] - most) / most:+.3%}")
    assert within(sum(last), held, 0.02)
    assert within(peak_of(plan)["total"], most, 0.10)


def passes(plan: Plan, rank: int) -> list[Entry]:
    return [entry for entry in Hybrid(plan).ledger(rank) if isinstance(entry.effect, Compute)]


def microbatch_bytes(plan: Plan, rank: int) -> int:
    (chunk,) = Hybrid(plan).account(rank).chunks
    return sum(mark.kept for mark in chunk.footprints) + chunk.output_bytes


LAW = {"layers": 8, "heads": 4, "width": 32, "context": 16, "batch": 32}


@pytest.mark.parametrize("microbatches", [2, 4, 8, 16])
def test_one_forward_one_backward_holds_as_many_microbatches_as_stages_follow(microbatches: int) -> None:
    """Narayanan et al., "Memory-efficient pipeline-parallel DNN training", 2021; GPipe holds all of them."""
    stages = 4
    for schedule in ("one_forward_one_backward", "gpipe"):
        plan = plan_of(LAW, pipeline=stages, microbatches=microbatches, schedule=schedule)
        for stage in range(stages):
            most = max(entry.after.activations for entry in passes(plan, stage))
            held = min(stages - stage, microbatches) if schedule == "one_forward_one_backward" else microbatches
            assert most == held * microbatch_bytes(plan, stage)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_shards_have_the_sizes_of_the_zero_paper(ranks: int) -> None:
    """Rajbhandari et al., 2020, section 5, in single precision: 4 + 4 + 8 bytes a parameter; the last are AdamW's."""
    parameters = sum(p.size_bytes // 4 for p in describe(plan_of(LAW).training, 1).parameters)
    divisors = {
        "none": (1, 1, 1),
        "optimizer": (1, 1, ranks),
        "gradients": (1, ranks, ranks),
        "parameters": (ranks,) * 3,
    }
    for sharding, (of_parameters, of_gradients, of_state) in divisors.items():
        plan = plan_of(LAW, data=ranks, sharding=sharding, microbatches=2)
        entries = passes(plan, 0)
        held = next(entry.during for entry in entries if entry.effect.phase == "optimizer")
        assert held.gradients * of_gradients == 4 * parameters
        assert held.optimizer_state * of_state == 8 * parameters
        if sharding == "gradients":  # as fully_shard has them: gathered beside the shards
            assert max(entry.during.gathered_parameters for entry in entries) == 4 * parameters
            assert held.parameters * ranks == 4 * parameters
        else:
            assert held.parameters * of_parameters == 4 * parameters


def test_a_unit_at_a_time_is_gathered_and_has_gradients_of_its_own() -> None:
    plan = plan_of(LAW, data=2, sharding="parameters")
    largest = {p: p.size_bytes for p in describe(plan.training, 1).parameters}
    block = sum(size for p, size in largest.items() if p.name.startswith("1."))
    root = sum(size for p, size in largest.items() if p.name.startswith(("0.", f"{LAW['layers'] + 1}.")))
    assert max(entry.during.gathered_parameters for entry in passes(plan, 0)) == root + block
    forward = [entry for entry in passes(plan, 0) if entry.effect.phase == "forward"]
    assert max(entry.during.gradients for entry in forward) == 0


@pytest.mark.parametrize("schedule", ["one_forward_one_backward", "zero_bubble"])
def test_a_pipeline_keeps_what_it_has_gathered_until_the_end_of_the_step(schedule: str) -> None:
    plan = plan_of(LAW, data=2, sharding="parameters", pipeline=2, microbatches=4, schedule=schedule)
    for rank in range(4):
        gathered = [(entry.effect.microbatch, entry.during.gathered_parameters) for entry in passes(plan, rank)]
        most = max(size for _, size in gathered)
        assert {size for microbatch, size in gathered if microbatch in (1, 2)} == {most} != {0}


def test_full_recomputation_keeps_inputs_of_blocks_alone() -> None:
    plan = plan_of(LAW, pipeline=4, microbatches=4, schedule="gpipe", recompute="full")
    stream_bytes = 4 * (LAW["batch"] // 4) * LAW["context"] * LAW["width"]
    blocks = LAW["layers"] // 4
    most = max(e.after.activations for e in passes(plan, 1) if e.effect.phase == "forward")
    assert most == 4 * (blocks + 1) * stream_bytes  # and what the next stage gets


def test_everything_is_given_up_at_the_end_of_a_step() -> None:
    for partition in ({"microbatches": 4}, {"pipeline": 4, "microbatches": 8}, {"data": 2, "sharding": "parameters"},
                      {"data": 4, "sharding": "gradients", "microbatches": 2, "recompute": "full"},
                      {"data": 2, "sharding": "parameters", "pipeline": 2, "microbatches": 4},
                      {"data": 2, "sharding": "parameters", "pipeline": 2, "microbatches": 4,
                       "schedule": "zero_bubble"},
                      {"tensor": 2, "sequence_parallel": True, "recompute": "selective"}):  # fmt: skip
        last = list(Hybrid(plan_of(LAW, **partition)).ledger(0))[-1].after
        assert last == last._replace(
            activations=0, gathered_parameters=0, communication=0, gradients=0, temporaries=0
        ), partition


RATES = "{{peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s, memory: {} B}}"


def scenario_with(memory_bytes: int, tmp_path: Path, *overrides: str) -> Scenario:
    content = {
        "workload": {"kind": "gpt"} | LAW,
        "partition": {"data": 2, "pipeline": 2, "microbatches": 4},
        "topology": {
            "builder": "star",
            "hosts": 4,
            "device": "cpu",
            "link": {"bandwidth": "10 Gb/s", "latency": "1 us"},
        },
        "run": {"compute": "emulated", "steps": 2, "warmup": 0},
    }
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_scenario(str(file), (f"topology.device={RATES.format(memory_bytes)}", *overrides))


def test_a_plan_fits_to_the_byte(tmp_path: Path) -> None:
    needed = workflow.predict(scenario_with(2**40, tmp_path), None).peak_memory_bytes["total"]
    check_memory(scenario_with(needed, tmp_path))
    with pytest.raises(InputError, match=r"rank 0 would need .* at its peak \(parameters .*, and its device has"):
        check_memory(scenario_with(needed - 1, tmp_path))


def test_what_does_not_fit_has_no_step_time(tmp_path: Path) -> None:
    scenario = scenario_with(10_000, tmp_path)
    with pytest.raises(InputError, match="no single change of the partition makes it fit"):
        workflow.predict(scenario, None)
    with pytest.raises(InputError, match="would need"):
        workflow.check_executable(scenario)


@pytest.mark.parametrize(
    ("partition", "share", "named"),
    [
        ("{data: 2, pipeline: 2, microbatches: 4}", 0.95, {"sharding": "optimizer"}),
        ("{data: 2, pipeline: 2, microbatches: 4}", 0.65, {"microbatches": 16}),
        ("{data: 4, microbatches: 4}", 0.6, {"sharding": "parameters"}),
        ("{pipeline: 2, microbatches: 32, schedule: gpipe}", 0.97, {"recompute": "selective"}),
        ("{pipeline: 2, microbatches: 32, schedule: gpipe}", 0.5, {"recompute": "full"}),
    ],
)
def test_the_change_that_is_named_makes_it_fit(
    partition: str, share: float, named: dict[str, Any], tmp_path: Path
) -> None:
    before = f"partition={partition}"
    needed = workflow.predict(scenario_with(2**40, tmp_path, before), None).peak_memory_bytes["total"]
    scenario = scenario_with(round(share * needed), tmp_path, before)
    remedy = smallest_change(scenario.plan, scenario.topology)
    assert remedy is not None
    assert remedy.changes == named
    overrides = [f"partition.{key}={value}" for key, value in remedy.changes.items()]
    changed = scenario_with(round(share * needed), tmp_path, before, *overrides)
    check_memory(changed)
    assert workflow.predict(changed, None).peak_memory_bytes["total"] == remedy.peak_bytes


def test_without_a_size_nothing_is_refused(tmp_path: Path) -> None:
    scenario = scenario_with(10_000, tmp_path, "topology.device={peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s}")
    check_memory(scenario)


def test_bytes_over_time_have_the_same_peak(tmp_path: Path) -> None:
    scenario = scenario_with(2**40, tmp_path)
    prediction = workflow.predict(scenario, None, every_rank=True)
    programs = lower(scenario.plan)
    assert isinstance(programs, Hybrid)
    for rank in range(scenario.plan.ranks):
        course = memory_over_time(programs, prediction.timeline, rank)
        assert max(parts["total"] for _, parts in course) == programs.memory_bytes(rank)["total"]
        step = prediction.timeline.representative_step()
        spans = [s for s in prediction.timeline.spans if s.rank == rank and s.step == step]
        times = [time_s for time_s, _ in course]
        assert times == sorted(times)
        assert min(s.start_s for s in spans) <= times[0] < times[-1] <= max(s.end_s for s in spans)


def test_what_the_gradients_of_weights_need_is_held_until_they_are_made() -> None:
    """Inputs of products and gradients of their outputs: 16 widths a token of a block, and the head's, on stage 1."""
    plan = plan_of(LAW, pipeline=2, schedule="zero_bubble")
    entries = passes(plan, 1)
    inputs = [entry for entry in entries if entry.effect.phase == "backward"]
    tokens, width, vocabulary = LAW["batch"] * LAW["context"], LAW["width"], 256
    block = (1 + 3) + (1 + 1) + (1 + 4) + (4 + 1)
    assert inputs[-1].after.activations == 4 * tokens * (LAW["layers"] // 2 * block * width + width + vocabulary)
    weights = [entry for entry in entries if entry.effect.phase == "weight_gradients"]
    assert weights[-1].after.activations == 0
    assert weights[-1].after.gradients == weights[-1].after.parameters
    assert inputs[-1].after.gradients == 0
