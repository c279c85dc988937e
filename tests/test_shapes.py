"""GPTs of other families than the one that real compute has: parameters, work, memory, and mixtures of experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.small_plans import RATES, make, predict
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from twinstep.costs import RooflineCosts
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads import (
    Gpt,
    Layer,
    Parameter,
    dispatch_bytes,
    expert_loads,
    expert_products,
    expert_router,
    expert_sum,
    expert_tokens,
    gpt_halves,
    gpt_layers,
)

LLAMA = {"kv_heads": 2, "feed_forward": 88, "gated": True, "norm": "rms", "positions": "rotary", "tied": False}
QWEN2 = LLAMA | {"biases": "qkv"}
QWEN3 = LLAMA | {"head_width": 12, "head_norms": True}
GPT2 = {"biases": "all", "position_table": 24}
MIXTRAL = LLAMA | {"experts": 8, "experts_per_token": 2}
QWEN2_MOE = QWEN2 | {"experts": 8, "experts_per_token": 2, "shared_expert": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {}, "llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gpt2": GPT2, "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
}  # fmt: skip
SAMPLES = 3


def gpt(**options: Any) -> Gpt:
    sizes = {"kind": "gpt", "layers": 2, "heads": 4, "width": 32, "context": 16, "vocabulary": 320, "batch": 12}
    return Gpt.model_validate(sizes | options)


class Attention(nn.Module):
    """Attention as transformers has it: one product each for queries, keys and values."""

    def __init__(self, spec: Gpt) -> None:
        super().__init__()
        shape = spec.shape(1)
        self.head_width = shape.head_width
        inner, keys = spec.heads * shape.head_width, shape.kv_heads * shape.head_width
        biased = spec.biases != "none"
        self.q = nn.Linear(spec.width, inner, bias=biased)
        self.k = nn.Linear(spec.width, keys, bias=biased)
        self.v = nn.Linear(spec.width, keys, bias=biased)
        self.o = nn.Linear(inner, spec.width, bias=spec.biases == "all")
        if spec.head_norms:
            self.q_norm, self.k_norm = nn.RMSNorm(shape.head_width), nn.RMSNorm(shape.head_width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (product(x).unflatten(-1, (-1, self.head_width)) for product in (self.q, self.k, self.v))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Two products with GELU between, or three with a gate."""

    def __init__(self, spec: Gpt, inner: int) -> None:
        super().__init__()
        biased = spec.biases == "all"
        self.gate = nn.Linear(spec.width, inner, bias=biased) if spec.gated else None
        self.up = nn.Linear(spec.width, inner, bias=biased)
        self.down = nn.Linear(inner, spec.width, bias=biased)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        inner = functional.gelu(up) if self.gate is None else functional.silu(self.gate(x)) * up
        y: Tensor = self.down(inner)
        return y


def norm(spec: Gpt) -> nn.Module:
    return nn.RMSNorm(spec.width) if spec.norm == "rms" else nn.LayerNorm(spec.width, bias=spec.biases == "all")


class Block(nn.Module):
    """A pre-norm block by hand; of a mixture it has the parameters alone."""

    def __init__(self, spec: Gpt) -> None:
        super().__init__()
        inner = spec.shape(1).feed_forward
        self.norm1, self.attention, self.norm2 = norm(spec), Attention(spec), norm(spec)
        if spec.is_mixture:
            self.router = nn.Linear(spec.width, spec.experts, bias=False)
            self.experts = nn.ModuleList(FeedForward(spec, inner) for _ in range(spec.experts))
            if spec.shared_expert:
                self.shared = FeedForward(spec, spec.shared_expert)
                self.shared_gate = nn.Linear(spec.width, 1, bias=False)
        else:
            self.feed_forward = FeedForward(spec, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.feed_forward(self.norm2(x))
        return y


class Whole(nn.Module):
    def __init__(self, spec: Gpt) -> None:
        super().__init__()
        self.token = nn.Embedding(spec.vocabulary, spec.width)
        if spec.positions == "learned":
            self.position = nn.Embedding(spec.shape(1).position_table, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = norm(spec)
        if not spec.tied:
            self.head = nn.Linear(spec.width, spec.vocabulary, bias=False)


def described(spec: Gpt) -> Counter[tuple[int, ...]]:
    """Count the parameters by shape, with queries, keys and values apart."""
    found: Counter[tuple[int, ...]] = Counter()
    shape = spec.shape(1)
    inner, keys = spec.heads * shape.head_width, shape.kv_heads * shape.head_width
    for each in {parameter for layer in gpt_layers(shape) for parameter in layer.parameters}:
        rows = (inner, keys, keys) if ".qkv." in each.name else each.shape[:1]
        assert sum(rows) == each.shape[0]
        found.update((size, *each.shape[1:]) for size in rows)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_a_model_by_hand(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    with torch.device("meta"):
        model = Whole(spec)
    assert described(spec) == Counter(tuple(each.shape) for each in model.parameters())
    assert spec.parameter_count == sum(each.numel() for each in model.parameters())


def test_defaults_are_the_block_without_biases() -> None:
    attention, feed_forward = gpt_halves(gpt().shape(SAMPLES), 1)
    rows = 16 * SAMPLES
    assert attention.parameters == (
        Parameter("1.norm1.weight", (32,)),
        Parameter("1.qkv.weight", (96, 32)),
        Parameter("1.project.weight", (32, 32)),
    )  # fmt: skip
    assert feed_forward.forward == (
        Kernel("linear_forward", (rows, 32, 128)), Kernel("linear_forward", (rows, 128, 32)),
        Kernel("layer_norm_forward", (rows, 32)), Kernel("gelu_forward", (rows * 128,)),
        Kernel("add_forward", (rows * 32,)),
    )  # fmt: skip
    assert feed_forward.activation_bytes == ELEMENT_BYTES * rows * (2 * 32 + 2 * 128)


def work(layers: list[Layer] | tuple[Layer, ...], *names: str) -> float:
    """Add up the work of kernels whose names begin with one of these."""
    kernels = (kernel for layer in layers for kernel in (*layer.forward, *layer.backward))
    return sum(kernel.work_flops for kernel in kernels if kernel.name.startswith(names))


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_six_operations_a_parameter_and_token(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    shape = spec.shape(SAMPLES)
    layers = gpt_layers(shape)
    matrices = [each for layer in layers for each in layer.parameters if len(each.shape) == 2 and each.name[:2] != "0."]
    of_all = sum(each.elements for each in matrices) + (spec.vocabulary * spec.width if spec.tied else 0)
    active = of_all - (spec.parameter_count - spec.active_parameter_count)
    assert work(layers, "linear") == 6 * active * shape.tokens
    # causal: half of the products of queries with keys, and of weights with values; backward five such products
    pairs = spec.layers * SAMPLES * spec.heads * spec.context**2 * shape.head_width
    assert work(layers, "attention") == (2 + 5) * pairs


@pytest.mark.parametrize("family", ["plain", "llama", "qwen2", "qwen3", "gpt2"])
def test_work_is_what_torch_counts(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    with torch.device("meta"):
        block, x = Block(spec), torch.empty(SAMPLES, spec.context, spec.width)
    with FlopCounterMode(display=False) as counter:
        block(x)
    kernels = [kernel for layer in gpt_halves(spec.shape(SAMPLES), 1) for kernel in layer.forward]
    linear = sum(kernel.work_flops for kernel in kernels if kernel.name == "linear_forward")
    attention = sum(kernel.work_flops for kernel in kernels if kernel.name == "attention_forward")
    assert counter.get_total_flops() == linear + 2 * attention  # torch counts what a causal mask leaves out, too


def kept_bytes(compute: Callable[[], Tensor], *parameters: Tensor) -> int:
    """Add up the storages that torch keeps for a backward pass, parameters aside."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert compute().requires_grad
    own = {each.untyped_storage().data_ptr() for each in parameters}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


# Outside of compiled code torch computes RMS norms on CPUs, and gates anywhere, in several passes: it keeps the normed
# rows before they are multiplied with their weights, and SiLU before it is multiplied with the other product.
TOKENS = SAMPLES * 16
ROW = ELEMENT_BYTES * TOKENS


def stream() -> Tensor:
    return torch.randn(SAMPLES, 16, 32, requires_grad=True)


@pytest.mark.parametrize("family", ["plain", "llama", "qwen2", "gpt2"])
def test_a_feed_forward_keeps_what_torch_keeps(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    layer, block, x = gpt_halves(spec.shape(SAMPLES), 1)[1], Block(spec), stream()
    found = kept_bytes(lambda: block.feed_forward(block.norm2(x)), *block.parameters())
    in_passes = ROW * ((spec.norm == "rms") * spec.width + spec.gated * spec.shape(1).feed_forward)
    assert 0 <= found - in_passes - layer.activation_bytes <= 2 * ROW  # a mean and a deviation of each row at most


@pytest.mark.parametrize("family", ["plain", "llama", "qwen2", "qwen3", "gpt2"])
def test_attention_keeps_what_torch_keeps(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    layer, block, x = gpt_halves(spec.shape(SAMPLES), 1)[0], Block(spec), stream()
    found = kept_bytes(lambda: block.attention(block.norm1(x)), *block.parameters())
    normed_heads = spec.head_norms * (spec.heads + spec.shape(1).kv_heads)
    in_passes = ROW * ((spec.norm == "rms") * spec.width + normed_heads * spec.shape(1).head_width)
    statistics = ROW * (2 + spec.heads + normed_heads)  # of norms, and a sum of exponentials a head and token
    assert 0 <= found - in_passes - layer.activation_bytes <= statistics


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


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_parallel_ranks_share_products_and_attention(family: str) -> None:
    spec = gpt(**FAMILIES[family])
    whole, part = gpt_halves(spec.shape(SAMPLES), 1), gpt_halves(spec.shape(SAMPLES, tensor=2), 1)
    shared = ("attention", "rotary", "silu", "gelu")
    assert 2 * work(part, *shared) == work(whole, *shared)
    router = 6 * SAMPLES * spec.context * spec.width * (spec.experts + (spec.shared_expert > 0))
    assert 2 * work(part, "linear") == work(whole, "linear") + router  # scores are computed by both


@pytest.mark.parametrize(
    ("name", "shape", "flops", "elements"),
    [
        ("rms_norm_forward", (3, 5), 4 * 15, 15 + 15),
        ("rms_norm_backward", (3, 5), (1 + 2 + 3 + 3) * 15, 3 * 15),  # g = dy weight, its sum with x, dx, dweight
        ("silu_mul_forward", (10,), 6 * 10, 3 * 10),
        ("silu_mul_backward", (10,), (4 + 2 + 6) * 10, 5 * 10),  # the sigmoid, dup, dgate
        ("rotary_forward", (10,), 3 * 10, 2 * 10),
        ("rotary_backward", (10,), 3 * 10, 2 * 10),
        ("top_k_gate_forward", (3, 8, 2), 3 * 8 * 5 + 2 * 3 * 8, 3 * (8 + 8 + 2 + 2)),
        ("top_k_gate_backward", (3, 8, 2), 4 * 3 * 8, 3 * (8 + 8 + 2 + 2)),
        ("weighted_sum_forward", (3, 6, 5), 2 * 6 * 5, 6 * 5 + 6 + 3 * 5),
        ("weighted_sum_backward", (3, 6, 5), 3 * 6 * 5, 6 * 5 + 6 * 5 + 3 * 5 + 2 * 6),
    ],
)
def test_kernels_do_what_was_counted_by_hand(name: str, shape: tuple[int, ...], flops: float, elements: float) -> None:
    kernel = Kernel(name, shape)
    assert (kernel.work_flops, kernel.bytes_moved) == (flops, ELEMENT_BYTES * elements)


def test_queries_and_keys_are_rotated_and_values_are_not() -> None:
    kernels = gpt_halves(gpt(**QWEN3).shape(SAMPLES), 1)[0].forward
    assert [each.shape for each in kernels if each.name == "rotary_forward"] == [(TOKENS * 48,), (TOKENS * 24,)]
    normed = [each.shape for each in kernels if each.name == "rms_norm_forward"]
    assert normed == [(TOKENS, 32), (TOKENS * 4, 12), (TOKENS * 2, 12)]


# Experts


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


# Plans


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("partition", [{"data": 2}, {"tensor": 2}, {"data": 2, "microbatches": 3}])
def test_every_family_is_predicted(family: str, partition: dict[str, int]) -> None:
    spec = gpt(**FAMILIES[family])
    workload = spec.model_dump(exclude_none=True)
    plan, topology = make({"builder": "one_host", "devices": 2}, workload=workload, partition=partition)
    spans = predict(plan, topology).timeline.spans
    of_rank = [span for span in spans if (span.rank, span.step, span.lane) == (0, 2, "compute")]
    forward_s = sum(span.duration_s for span in of_rank if span.phase == "forward")
    passes = partition.get("microbatches", 1)
    samples = spec.batch // partition.get("data", 1) // passes
    layers = gpt_layers(spec.shape(samples, partition.get("tensor", 1)))
    costs = RooflineCosts(100e9, 50e9, 5e-6)
    expected_s = passes * sum(costs.kernel_s(kernel) for layer in layers for kernel in layer.forward)
    assert forward_s == pytest.approx(expected_s, rel=1e-9)


def refusal(workload: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        make({"builder": "one_host", "devices": 8, "device": RATES}, workload=workload, **sections)
    return str(caught.value)


SIZES = {"kind": "gpt", "layers": 2, "heads": 4, "width": 32, "context": 16, "batch": 12}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kv_heads": 3}, "kv_heads (3) must divide heads (4)"),
        ({"heads": 3}, "heads (3) must divide width (32)"),
        ({"positions": "rotary", "head_width": 7}, "even width, not 7: set head_width"),
        ({"positions": "rotary", "position_table": 64}, "needs positions learned: remove it"),
        ({"position_table": 8}, "position_table (8) must not be less than context (16)"),
        ({"experts": 2, "experts_per_token": 3}, "experts_per_token (3) is more than experts (2): lower it"),
        ({"imbalance": 1.0}, "imbalance (1.0) needs experts of 2 or more: remove it"),
        ({"experts": 1, "capacity_factor": 1.0}, "capacity_factor (1.0) needs experts of 2 or more"),
        ({"config": "gpt2"}, "config is read with a scenario file alone"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], expected: str) -> None:
    assert expected in refusal(SIZES | options)


@pytest.mark.parametrize(
    ("options", "partition", "expected"),
    [
        ({"kv_heads": 2}, {"tensor": 4}, "partition.tensor (4) must divide workload.kv_heads (2)"),
        ({"feed_forward": 30}, {"tensor": 4}, "must divide workload.feed_forward (30)"),
        ({}, {"data": 2, "expert": 2}, "partition.expert (2) needs workload.experts of 2 or more"),
        ({"experts": 3}, {"data": 2, "expert": 2}, "partition.expert (2) must divide workload.experts (3)"),
        ({"tied": False}, {"pipeline": 2}, "partition.pipeline (2) needs workload.tied: set it to true"),
    ],
)
def test_degrees_that_do_not_fit_are_refused(options: dict[str, Any], partition: dict[str, int], expected: str) -> None:
    assert expected in refusal(SIZES | options, partition=partition)


@pytest.mark.parametrize("options", [LLAMA, GPT2, {"tied": False}, {"experts": 4}, {"kv_heads": 1}, {"norm": "rms"}])
def test_real_compute_has_one_family(options: dict[str, Any]) -> None:
    first = next(iter(options))
    message = refusal(SIZES | options, run={"compute": "real"})
    assert "needs run.compute emulated" in message
    assert len(options) > 1 or f"workload.{first} " in message


def test_real_compute_takes_options_that_say_what_holds_anyway() -> None:
    implied = {"kv_heads": 4, "head_width": 8, "feed_forward": 128, "position_table": 16, "experts": 1}
    make({"builder": "one_host", "devices": 1}, workload=SIZES | implied, run={"compute": "real"})
