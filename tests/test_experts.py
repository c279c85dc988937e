"""Mixtures of experts: loads, bytes of the all-to-alls, pieces of a half, and what torch keeps of them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.families import (
    FAMILIES,
    LLAMA,
    MIXTRAL,
    QWEN2_MOE,
    ROW,
    SAMPLES,
    TOKENS,
    Block,
    gpt,
    kept_bytes,
    stream,
    work,
)
from torch import Tensor

from twinstep.kernels import ELEMENT_BYTES
from twinstep.workloads import (
    dispatch_bytes,
    expert_loads,
    expert_products,
    expert_router,
    expert_sum,
    expert_tokens,
    gpt_halves,
)


def test_experts_keep_what_torch_keeps() -> None:
    spec, rows = gpt(**MIXTRAL), 10
    layer, block = expert_products(spec.shape(SAMPLES), 1, 0, (rows,)), Block(spec)
    x = torch.randn(rows, spec.width, requires_grad=True)
    found = kept_bytes(lambda: block.experts[0](x), *block.parameters())
    assert found == layer.activation_bytes + ELEMENT_BYTES * rows * spec.shape(1).feed_forward


def test_a_router_keeps_what_torch_keeps() -> None:
    spec, block, x = gpt(**MIXTRAL), Block(gpt(**MIXTRAL)), stream()
    layer = expert_router(spec.shape(SAMPLES), 1, 2 * TOKENS)

    def choose() -> Tensor:
        scores = torch.softmax(block.router(block.norm2(x)), -1)
        best = scores.topk(2, dim=-1).values
        return best / best.sum(-1, keepdim=True)

    found = kept_bytes(choose, *block.parameters()) - ROW * spec.width
    assert abs(found - layer.activation_bytes) <= 3 * ROW  # a deviation, a sum, and weights that are kept twice


def test_a_sum_keeps_what_torch_keeps() -> None:
    shape, rows = gpt(**MIXTRAL).shape(SAMPLES), 2 * TOKENS
    weights, x = torch.rand(rows, 1, requires_grad=True), torch.randn(rows, 32, requires_grad=True)
    found = kept_bytes(lambda: (weights * x).unflatten(0, (2, TOKENS)).sum(0), weights)
    assert found == expert_sum(shape, 1, rows).activation_bytes


def test_a_shared_expert_keeps_what_torch_keeps() -> None:
    spec, block = gpt(**QWEN2_MOE), Block(gpt(**QWEN2_MOE))
    layer, own = (expert_sum(each.shape(SAMPLES), 1, 2 * TOKENS) for each in (spec, gpt(**MIXTRAL)))
    normed = stream()
    found = kept_bytes(lambda: torch.sigmoid(block.shared_gate(normed)) * block.shared(normed), *block.parameters())
    in_passes = ROW * spec.shared_expert
    kept_by_router = ROW * spec.width
    assert found - in_passes - kept_by_router == layer.activation_bytes - own.activation_bytes


@pytest.mark.parametrize("choices", [1, 2, 8])
@pytest.mark.parametrize("imbalance", [0.0, 0.7, 2.0, 16.0])
def test_every_choice_of_a_token_is_another_expert(choices: int, imbalance: float) -> None:
    shape = gpt(**MIXTRAL | {"experts_per_token": choices, "imbalance": imbalance}).shape(SAMPLES)
    loads = expert_loads(shape, 1, seed=0)
    assert sum(loads) == choices * shape.tokens
    assert max(loads) <= shape.tokens


def test_equal_loads_differ_by_one_at_most() -> None:
    shape = gpt(**MIXTRAL | {"experts": 7}).shape(SAMPLES)
    loads = expert_loads(shape, 1, seed=0)
    assert sum(loads) == 2 * 48
    assert sorted(loads) == [13, 13, 14, 14, 14, 14, 14]


def test_loads_follow_zipfs_law() -> None:
    shape = gpt(**LLAMA | {"experts": 4, "imbalance": 1.0}, context=300).shape(1)
    weights = [1, 1 / 2, 1 / 3, 1 / 4]
    expected = [300 * weight / sum(weights) for weight in weights]  # 144, 72, 48, 36
    assert sorted(expert_loads(shape, 1, seed=0), reverse=True) == pytest.approx(expected, abs=1)


def test_the_most_popular_expert_is_another_one_with_another_seed_or_block() -> None:
    shape = gpt(**MIXTRAL | {"imbalance": 1.0}).shape(SAMPLES)
    assert expert_loads(shape, 1, seed=0) == expert_loads(shape, 1, seed=0)
    first = {expert_loads(shape, 1, seed).index(max(expert_loads(shape, 1, seed))) for seed in range(20)}
    assert len(first) > 4
    assert len({expert_loads(shape, block, seed=0) for block in range(20)}) > 4
    assert sorted(expert_loads(shape, 1, seed=0)) == sorted(expert_loads(shape, 2, seed=1))


@pytest.mark.parametrize(("factor", "kept"), [(1.0, [10, 12, 12]), (1.5, [10, 13, 18]), (0.5, [6, 6, 6])])
def test_what_is_beyond_the_capacity_is_dropped(factor: float, kept: list[int]) -> None:
    # 36 choices of 3 experts with weights 1, 1/2, 1/3 where nothing else limits them: 20, 10 and 6
    options = LLAMA | {"experts": 3, "imbalance": 1.0, "capacity_factor": factor}
    shape = gpt(**options, context=36).shape(1)
    free = sorted(expert_loads(gpt(**LLAMA | {"experts": 3, "imbalance": 1.0}, context=36).shape(1), 1, seed=0))
    capacity = {1.0: 12, 1.5: 18, 0.5: 6}[factor]
    assert sorted(expert_loads(shape, 1, seed=0)) == [min(load, capacity) for load in free]
    assert sum(free) == 36
    assert kept[-1] == capacity


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_rows_of_all_ranks_arrive_at_experts(ranks: int) -> None:
    shape = gpt(**MIXTRAL | {"imbalance": 0.8}).shape(SAMPLES)
    rows = expert_tokens(shape, 2, seed=5, ranks=ranks)
    assert [len(part) for part in rows] == [8 // ranks] * ranks
    assert sum(map(sum, rows)) == ranks * 2 * shape.tokens


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_dispatch_sends_each_token_as_often_as_it_has_experts(ranks: int) -> None:
    """GShard's all-to-all: tokens x experts a token x width elements leave each rank."""
    shape = gpt(**MIXTRAL | {"imbalance": 0.8}).shape(SAMPLES)
    sent = dispatch_bytes(shape, 2, seed=5, ranks=ranks)
    assert sum(sent) == shape.tokens * 2 * shape.width * ELEMENT_BYTES
    rows = expert_tokens(shape, 2, seed=5, ranks=ranks)
    assert [ranks * size for size in sent] == [sum(part) * shape.width * ELEMENT_BYTES for part in rows]


def test_a_capacity_saves_bytes_and_products() -> None:
    free = gpt(**MIXTRAL | {"imbalance": 2.0}).shape(SAMPLES)
    bounded = gpt(**MIXTRAL | {"imbalance": 2.0, "capacity_factor": 1.0}).shape(SAMPLES)
    assert sum(dispatch_bytes(bounded, 1, 0, 4)) < sum(dispatch_bytes(free, 1, 0, 4))
    assert max(map(sum, expert_tokens(bounded, 1, 0, 4))) <= 4 * 2 * 12  # two experts a rank, 12 of 96 choices each
    products = [expert_products(shape, 1, 0, expert_loads(shape, 1, 0)) for shape in (bounded, free)]
    assert work(products[:1], "linear") < work(products[1:], "linear")


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_a_mixture_on_one_rank_is_its_pieces(family: str) -> None:
    shape = gpt(**FAMILIES[family]).shape(SAMPLES)
    whole = gpt_halves(shape, 1)[1]
    loads = expert_loads(shape, 1, seed=0)
    rows = sum(loads)
    pieces = (expert_router(shape, 1, rows), expert_products(shape, 1, 0, loads), expert_sum(shape, 1, rows))
    assert Counter(whole.parameters) == Counter(each for piece in pieces for each in piece.parameters)
    assert whole.forward == tuple(kernel for piece in pieces for kernel in piece.forward)
    assert whole.activation_bytes == sum(piece.activation_bytes for piece in pieces)
    assert [kernel.name for kernel in whole.backward].count("backward_call") == 1


def test_experts_shared_out_are_those_of_one_rank() -> None:
    shape = gpt(**MIXTRAL).shape(SAMPLES)
    parts = [expert_products(shape, 1, 2 * rank, rows) for rank, rows in enumerate(expert_tokens(shape, 1, 0, 4))]
    whole = expert_products(shape, 1, 0, [4 * load for load in expert_loads(shape, 1, 0)])
    assert tuple(each for part in parts for each in part.parameters) == whole.parameters
    assert work(parts, "linear") == work([whole], "linear")


def test_an_expert_without_tokens_has_parameters_and_no_work() -> None:
    layer = expert_products(gpt(**MIXTRAL).shape(SAMPLES), 1, 6, (0, 0))
    assert [each.name for each in layer.parameters[::3]] == ["1.expert6.gate.weight", "1.expert7.gate.weight"]
    assert (layer.forward, layer.activation_bytes) == ((), 0)
