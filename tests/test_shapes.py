"""GPTs of other families than the one that real compute has: parameters, work, memory, and mixtures of experts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.families import (
    FAMILIES,
    GPT2,
    LLAMA,
    QWEN3,
    ROW,
    SAMPLES,
    TOKENS,
    Block,
    Whole,
    gpt,
    kept_bytes,
    stream,
    work,
)
from tests.small_plans import RATES, make, predict
from torch.utils.flop_counter import FlopCounterMode

from twinstep.costs import RooflineCosts
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads import (
    Gpt,
    Parameter,
    gpt_halves,
    gpt_layers,
)


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
    assert feed_forward.activation_bytes == ELEMENT_BYTES * rows * (2 * 32 + 2 * 128 + 2)  # two statistics of the norm


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
