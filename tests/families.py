"""Families of GPTs for tests, and the same blocks as torch modules by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from twinstep.kernels import ELEMENT_BYTES
from twinstep.workloads import (
    Gpt,
    Layer,
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


def work(layers: list[Layer] | tuple[Layer, ...], *names: str) -> float:
    """Add up the work of kernels whose names begin with one of these."""
    kernels = (kernel for layer in layers for kernel in (*layer.forward, *layer.backward))
    return sum(kernel.work_flops for kernel in kernels if kernel.name.startswith(names))


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
