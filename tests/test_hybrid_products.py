"""Ranks of a group agree on what is sent, whatever the product of partitions, and every product runs to its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.hybrid_plans import GPT, plan_of
from tests.small_plans import make, predict, star

from twinstep.effects import Collective, Transfer
from twinstep.partition import Partition
from twinstep.plan import Plan
from twinstep.programs import first_steps, lower
from twinstep.programs.mesh import mesh_groups

CHUNKS = {
    "gpipe": 1,
    "one_forward_one_backward": 1,
    "interleaved_one_forward_one_backward": 2,
    "zero_bubble": 1,
    "interleaved_zero_bubble": 2,
    "zero_bubble_v": 2,
    "dual_pipe_v": 2,
}
PRODUCTS = st.fixed_dictionaries(
    {
        "data": st.sampled_from([1, 2, 4]),
        "tensor": st.sampled_from([1, 2]),
        "context": st.sampled_from([1, 2]),
        "pipeline": st.sampled_from([1, 2]),
        "microbatches": st.sampled_from([1, 2, 4]),
        "schedule": st.sampled_from(sorted(CHUNKS)),
        "sharding": st.sampled_from(["none", "optimizer", "gradients", "parameters"]),
        "sharding_copies": st.sampled_from([1, 2]),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "sequence_parallel": st.booleans(),
        "order": st.permutations(["tensor", "context", "data", "pipeline"]),
    }
)


def with_chunks(partition: dict[str, Any]) -> dict[str, Any]:
    """Give a schedule its chunks, and none to ranks that are no pipeline."""
    if partition["pipeline"] == 1:
        return {name: value for name, value in partition.items() if name != "schedule"}
    return partition | {"chunks": CHUNKS[partition["schedule"]]}


def valid(partition: dict[str, Any]) -> bool:
    if partition.get("schedule") == "dual_pipe_v" and partition["microbatches"] < 2 * partition["pipeline"]:
        return False
    data, copies = partition["data"], partition["sharding_copies"]
    has_copies = partition["sharding"] != "none" and data % copies == 0 and data * partition["context"] > copies
    shards = (partition["sharding"] == "none" or data * partition["context"] > 1) and (copies == 1 or has_copies)
    return shards and (not partition["sequence_parallel"] or partition["tensor"] > 1)


Operations = list[str]


def conversation(plan: Plan) -> tuple[dict[tuple[str, int], list[Operations]], dict[tuple[Any, ...], list[Operations]]]:
    """Give what each member of a group issues in turn, and what both ends of a channel do."""
    programs = lower(plan)
    issued: dict[tuple[str, int], list[Operations]] = defaultdict(list)
    channels: dict[tuple[Any, ...], dict[str, Operations]] = defaultdict(lambda: {"send": [], "recv": []})
    for rank in range(plan.ranks):
        collectives: dict[str, Operations] = defaultdict(list)
        for effect in first_steps(programs.program(rank)):
            if isinstance(effect, Collective):
                collectives[effect.group].append(f"{effect.operation} {effect.size_bytes}")
            elif isinstance(effect, Transfer):
                row = programs.groups[effect.group].row_of(rank)
                ends = channels[effect.group, row, effect.source, effect.target, effect.lane]
                message = effect.operation.removeprefix(effect.kind)
                ends[effect.kind].append(f"{message} {effect.size_bytes}")
        for group, operations in collectives.items():
            issued[group, programs.groups[group].row_of(rank)].append(operations)
    return issued, {channel: [*ends.values()] for channel, ends in channels.items()}


@settings(max_examples=30, deadline=None)
@given(PRODUCTS.map(with_chunks).filter(valid))
def test_ranks_of_a_group_issue_the_same_and_messages_arrive_in_order(partition: dict[str, Any]) -> None:
    issued, channels = conversation(plan_of(**partition))
    for sequences in (*issued.values(), *channels.values()):
        assert all(sequence == sequences[0] for sequence in sequences)


@pytest.mark.parametrize("schedule", sorted(CHUNKS))
@pytest.mark.parametrize("pipeline", [2, 4])
def test_messages_of_every_schedule_arrive_in_order(schedule: str, pipeline: int) -> None:
    workload = {"layers": 8}
    plan = plan_of(workload, pipeline=pipeline, microbatches=8, schedule=schedule, chunks=CHUNKS[schedule])
    _, channels = conversation(plan)
    assert all(sent == received for sent, received in channels.values())
    assert len(channels) >= 2 * (pipeline - 1)


@settings(max_examples=10, deadline=None)
@given(PRODUCTS.map(with_chunks).filter(valid))
def test_every_product_runs_to_its_end_folded_or_not(partition: dict[str, Any]) -> None:
    ranks = Partition.model_validate(partition)
    hosts = ranks.data * ranks.tensor * ranks.context * ranks.pipeline
    assume(hosts > 1)
    plan, topology = make(
        star(hosts), workload=GPT, partition=partition, run={"steps": 1, "warmup": 0, "compute": "emulated"}
    )
    folded, unfolded = (predict(plan, topology, fold=fold).timeline.step_time_s() for fold in (True, False))
    assert folded == unfolded


def test_order_decides_which_degree_stays_inside_a_host() -> None:
    """Two hosts of four devices: tensor parallelism inside a host is faster than across."""
    slow = star(2, devices=4, bandwidth="1 Gb/s")
    run = {"steps": 1, "warmup": 0, "compute": "emulated"}
    times_s = []
    for order in (["tensor", "context", "data", "pipeline"], ["data", "context", "tensor", "pipeline"]):
        plan, topology = make(slow, workload=GPT, partition={"data": 2, "tensor": 4, "order": order}, run=run)
        times_s.append(predict(plan, topology).timeline.step_time_s())
    assert times_s[0] < times_s[1] / 2


def groups_of(**partition: Any) -> dict[str, Sequence[Sequence[int]]]:
    found = mesh_groups(Partition.model_validate(partition), ties_ends=False)
    return {kind: groups.ranks.tolist() for kind, groups in found.items()}


def test_groups_of_a_mesh() -> None:
    assert groups_of(tensor=2, data=2) == {"tensor": [[0, 1], [2, 3]], "data": [[0, 2], [1, 3]]}
    assert groups_of(context=2, data=2) == {"data": [[0, 1, 2, 3]], "context": [[0, 1], [2, 3]]}
    assert groups_of(data=4, sharding="parameters", sharding_copies=2) == {
        "data": [[0, 1, 2, 3]],
        "sharding": [[0, 1], [2, 3]],
        "copies": [[0, 2], [1, 3]],
    }
    assert groups_of(data=4, expert=2) == {
        "data": [[0, 1, 2, 3]],
        "expert": [[0, 1], [2, 3]],
        "expert_data": [[0, 2], [1, 3]],
    }
