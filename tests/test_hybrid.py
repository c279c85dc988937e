"""What hybrid plans send equals the published formulas, and ranks of a group agree on it, whatever the product."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tests.hybrid_plans import GPT, effects_of, plan_of
from tests.small_plans import make, star

from twinstep.effects import Collective, Compute, Transfer
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.programs.stage import microbatch_shape, stage_model, stage_parts


def sent_bytes(plan: Plan, group: str, rank: int = 0) -> float:
    """Count what a rank sends to others of a group, by algorithms that send no byte twice (ring, pairs)."""
    size = lower(plan).groups[group].size
    factor = {"all_reduce": 2 * (size - 1) / size, "all_gather": (size - 1) / size, "reduce_scatter": (size - 1) / size}
    total = 0.0
    for effect in effects_of(plan, rank):
        if isinstance(effect, Collective) and effect.group == group:
            total += factor[effect.kind] * effect.size_bytes
        elif isinstance(effect, Transfer) and effect.group == group and effect.kind == "send":
            total += effect.size_bytes
    return total


def counts(plan: Plan, group: str) -> Counter[str]:
    return Counter(e.kind for e in effects_of(plan) if isinstance(e, Collective) and e.group == group)


def model_bytes(plan: Plan) -> tuple[int, int]:
    """Count the bytes of all parameters, and of those that are in no block."""
    parameters = stage_model(plan, stage_parts(plan, 0)).parameters
    root = sum(p.size_bytes for p in parameters if p.name.startswith(("0.", f"{GPT['layers'] + 1}.")))
    return sum(p.size_bytes for p in parameters), root


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_sharded_rank_sends_what_the_zero_paper_says(ranks: int) -> None:
    """Rajbhandari et al., 2020, section 7: 2 P for stages 1 and 2, 3 P for stage 3, each times (n - 1) / n.

    fully_shard gathers what is in no block once instead of twice.
    """
    whole, root = model_bytes(plan_of())
    part = (ranks - 1) / ranks
    for sharding, expected in (("none", 2 * whole), ("optimizer", 2 * whole), ("gradients", 2 * whole)):
        plan = plan_of(data=ranks, sharding=sharding, recompute="full")
        assert sent_bytes(plan, "data") == pytest.approx(part * expected, rel=1e-12)
    plan = plan_of(data=ranks, sharding="parameters")
    assert sent_bytes(plan, "data") == pytest.approx(part * (3 * whole - root), rel=1e-12)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_parameters_are_gathered_for_every_microbatch_but_in_a_pipeline(microbatches: int) -> None:
    """m gathers or 2 m, but m of what is in no block, and one scatter; as in the tables of `holding` and the guide."""
    whole, root = model_bytes(plan_of())
    of_gathers = {"none": 2 * whole, "optimizer": 2 * whole, "gradients": (microbatches + 1) * whole}
    of_gathers["parameters"] = (2 * microbatches + 1) * whole - microbatches * root
    for sharding, expected in of_gathers.items():
        plan = plan_of(data=4, sharding=sharding, microbatches=microbatches)
        assert sent_bytes(plan, "data") == pytest.approx(3 / 4 * expected, rel=1e-12)
    plans = (
        plan_of(data=4, pipeline=2, sharding=each, microbatches=microbatches) for each in ("gradients", "parameters")
    )
    for plan in plans:
        stage = sum(p.size_bytes for p in stage_model(plan, stage_parts(plan, 0)).parameters)
        assert sent_bytes(plan, "data") == pytest.approx(3 / 4 * 2 * stage, rel=1e-12)


def test_shards_of_every_microbatch_are_gathered_and_gradients_scattered_once() -> None:
    plan = plan_of(data=2, sharding="parameters", microbatches=4)
    blocks = GPT["layers"]
    assert counts(plan, "data") == {"all_gather": 4 * (2 * blocks + 1), "reduce_scatter": blocks + 1}


def test_copies_sum_shards_of_gradients_alone() -> None:
    """Hybrid sharding: what a rank sends to other copies is a sum of 1/n of the gradients."""
    plan = plan_of(data=8, sharding="parameters", sharding_copies=2)
    whole, root = model_bytes(plan)
    assert sent_bytes(plan, "sharding") == pytest.approx(3 / 4 * (3 * whole - root), rel=1e-12)
    assert sent_bytes(plan, "copies") == pytest.approx(2 * 1 / 2 * whole / 4, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_tensor_parallel_rank_sends_what_megatron_says(ranks: int, microbatches: int) -> None:
    """Shoeybi et al., 2019, section 3: four sums of the residual stream a block, and one each at both ends."""
    plan = plan_of(tensor=ranks, microbatches=microbatches)
    shape = microbatch_shape(plan)
    part = 2 * (ranks - 1) / ranks
    loss_bytes = 3 * 4 * shape.tokens
    expected = part * microbatches * ((4 * GPT["layers"] + 2) * shape.stream_bytes + loss_bytes)
    assert sent_bytes(plan, "tensor") == pytest.approx(expected, rel=1e-12)


def test_sequence_parallelism_sends_as_much_as_the_sums_that_it_replaces() -> None:
    """Korthikanti et al., 2022, section 4.2; the gradients of norms and positions are summed besides."""
    plan = plan_of(tensor=4, sequence_parallel=True)
    plain = plan_of(tensor=4)
    small = (2 * GPT["layers"] + 1 + GPT["context"]) * 4 * GPT["width"]
    expected = sent_bytes(plain, "tensor") + 2 * 3 / 4 * small
    assert sent_bytes(plan, "tensor") == pytest.approx(expected, rel=1e-12)
    each = 2 * GPT["layers"] + 1
    norms = 2 * GPT["layers"] + 2
    assert counts(plan, "tensor") == {"all_gather": 2 * each, "reduce_scatter": 2 * each, "all_reduce": norms + 3}


SUMS_OF_LOSS = 3


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("sharded", [{}, {"data": 2}, {"data": 2, "sharding": "parameters"}])
def test_gradients_that_tensor_parallel_ranks_have_parts_of_are_summed(
    sequence_parallel: bool, sharded: dict[str, Any]
) -> None:
    """Those of norms of heads always, as ranks have other heads; those of all that is whole where they share tokens.

    Source: Megatron-LM, `finalize_model_grads.py`, which sums what is marked `sequence_parallel`, and `qk_layernorm`.
    """
    blocks = GPT["layers"]
    of_tokens = {"none": 2 * blocks + 1 + 1, "all": 2 * (2 * blocks + 1) + 2 * blocks + 1}  # norms, biases, positions
    for biases, head_norms in (("none", False), ("none", True), ("all", False), ("all", True)):
        options = {"biases": biases, "head_norms": head_norms}
        plan = plan_of(options, tensor=2, sequence_parallel=sequence_parallel, **sharded)
        residual = 0 if sequence_parallel else 4 * blocks + 2
        expected = 2 * blocks * head_norms + (of_tokens[biases] if sequence_parallel else 0)
        assert counts(plan, "tensor")["all_reduce"] == residual + SUMS_OF_LOSS + expected, options


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_ring_of_attention_passes_keys_and_values_and_their_gradients(ranks: int) -> None:
    """Liu et al., 2023: n - 1 shifts forward, n - 1 backward, and n of the gradients, of a rank's keys and values."""
    plan = plan_of(context=ranks)
    keys_and_values = 2 * 4 * GPT["batch"] * GPT["context"] // ranks * GPT["width"]
    expected = GPT["layers"] * ((ranks - 1) + (2 * ranks - 1)) * keys_and_values
    assert sent_bytes(plan, "context") == expected


def test_context_parallel_ranks_share_the_work() -> None:
    """All products are halved, and so is attention, since its cost is that of causal blocks of equal shares."""
    whole, half = (
        sum(e.work_flops for e in effects_of(plan_of(context=c)) if hasattr(e, "work_flops")) for c in (1, 2)
    )
    optimizer = 14 * model_bytes(plan_of())[0] / 4
    assert (half - optimizer) / (whole - optimizer) == pytest.approx(0.5, rel=0.02)


MIXTURE = {"experts": 4, "experts_per_token": 2}


def test_experts_travel_twice_a_pass_and_are_summed_by_those_who_share_them() -> None:
    """Lepikhin et al., 2020: rows go to their experts and back, forward and backward; k of them a token."""
    plan = plan_of(MIXTURE, data=4, expert=2)
    tokens = GPT["batch"] // 4 * GPT["context"]
    rows_bytes = 2 * tokens * 4 * GPT["width"]
    sizes = [e.size_bytes for e in effects_of(plan) if isinstance(e, Collective) and e.group == "expert"]
    assert sizes == [rows_bytes] * 4 * GPT["layers"]
    experts_bytes = GPT["layers"] * 2 * 2 * 4 * GPT["width"] * 4 * GPT["width"]  # two each, two products
    assert sent_bytes(plan, "expert_data") == experts_bytes  # 2 (n - 1) / n of them, n = 2
    whole = sum(p.size_bytes for p in stage_model(plan, stage_parts(plan, 0)).parameters)
    assert sent_bytes(plan, "data") == pytest.approx(2 * 3 / 4 * (whole - experts_bytes), rel=1e-12)


def test_the_rank_with_the_most_rows_computes_longest() -> None:
    plan = plan_of(MIXTURE | {"imbalance": 1.0}, data=2, expert=2)
    work = [sum(e.work_flops for e in effects_of(plan, rank) if isinstance(e, Compute)) for rank in range(2)]
    assert work[0] != pytest.approx(work[1], rel=0.01)
    even = plan_of(MIXTURE, data=2, expert=2)
    flops = [sum(e.work_flops for e in effects_of(even, rank) if isinstance(e, Compute)) for rank in range(2)]
    assert flops[0] == flops[1] == pytest.approx(sum(work) / 2, rel=0.01)


def test_recomputation_repeats_the_forward_pass_with_its_sums() -> None:
    plain, full = plan_of(tensor=2), plan_of(tensor=2, recompute="full")
    # The last sum of a block is not repeated: nothing in the block needs it.
    assert counts(full, "tensor")["all_reduce"] - counts(plain, "tensor")["all_reduce"] == GPT["layers"]


@pytest.mark.parametrize("sharding", ["none", "optimizer", "gradients", "parameters"])
def test_a_tied_gradient_is_summed_when_it_is_complete(sharding: str) -> None:
    """Over both ends of a pipeline, when it has been reduced over replicas, or scattered."""
    plan = plan_of(data=2, pipeline=2, microbatches=2, sharding=sharding)
    script = lower(plan)._script(0)  # type: ignore[attr-defined]
    groups = [(line.verb, line.effect.group if isinstance(line.effect, Collective) else "") for line in script]
    begins = groups.index(("begin", "embedding"))
    before_the_update = groups[: groups.index(("wait", "embedding"))]
    reduced = [index for index, each in enumerate(before_the_update) if each == ("wait", "data")]
    assert reduced
    assert begins > max(reduced)


def test_a_shard_of_the_tied_gradient_is_as_large_as_torch_makes_the_largest() -> None:
    plan = plan_of({"width": 64, "batch": 12}, data=3, pipeline=2, microbatches=2, sharding="parameters")
    largest = max(part.nbytes for part in torch.empty(256, 64).chunk(3))
    sizes = [e.size_bytes for e in effects_of(plan) if isinstance(e, Collective) and e.group == "embedding"]
    assert sizes == [largest] == [22_016]


def test_a_schedule_without_a_pipeline_is_refused_whatever_is_trained() -> None:
    with pytest.raises(ValueError, match=r"partition.schedule dual_pipe_v needs partition.pipeline of 2 or more"):
        make(star(2), partition={"data": 2, "schedule": "dual_pipe_v"})


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ({"tensor": 3}, "partition.tensor (3) must divide workload.heads (4)"),
        ({"context": 3}, "partition.context (3): twice as many must divide workload.context (16)"),
        ({"sequence_parallel": True, "microbatches": 2}, "partition.sequence_parallel needs partition.tensor of 2"),
        ({"sharding": "parameters"}, "partition.sharding parameters needs partition.data or partition.context of 2"),
        ({"data": 2, "sharding_copies": 2, "microbatches": 2}, "needs partition.sharding, e.g. parameters"),
        ({"data": 4, "sharding": "parameters", "sharding_copies": 3}, "(3) must divide partition.data (4)"),
        ({"data": 2, "sharding": "parameters", "sharding_copies": 2}, "leaves each copy to one rank, with nothing to"),
        (
            {"data": 4, "sharding": "optimizer", "sharding_copies": 4},
            "lower partition.sharding_copies, or set partition.sharding to none",
        ),
        ({"data": 2, "expert": 4}, "partition.expert (4) must divide partition.data (2)"),
        ({"pipeline": 8}, "partition.pipeline (8) is more than workload.layers (4)"),
        ({"pipeline": 2, "chunks": 2}, "needs a partition.schedule with chunks"),
        ({"data": 2, "microbatches": 2, "schedule": "gpipe"}, "partition.pipeline of 2 or more: leave it out"),
        ({"data": 2, "chunks": 2}, "partition.chunks (2) needs partition.pipeline of 2 or more: leave it out"),
        ({"tensor": 2, "order": ["tensor", "data"]}, "partition.order must name tensor, context, data and pipeline"),
    ],
)
def test_what_does_not_fit_is_refused(partition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="partition") as caught:
        plan_of(**partition)
    assert message in str(caught.value)
