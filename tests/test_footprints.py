"""What the backward pass of blocks of other families needs, whatever their norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families import gpt, kept_bytes
from tests.torch_memory import most_allocated_bytes
from torch import Tensor, nn

from twinstep.exec.models import Block
from twinstep.programs.footprint import Footprint, footprint_of_layer
from twinstep.workloads import Gpt, gpt_halves, gpt_layers

ELEMENT_BYTES = 4
SIZES: list[dict[str, Any]] = [
    {"width": 1024, "heads": 4, "head_width": 16, "context": 32, "batch": 4},
    {"width": 64, "heads": 4, "context": 64, "batch": 8},
    {"width": 192, "heads": 4, "context": 16, "batch": 4},
]


def block_of(spec: Gpt) -> Footprint:
    return footprint_of_layer(gpt_layers(spec.shape(spec.batch))[1])


class WithHeadNorms(Block):
    """A block by hand whose queries and keys are normalised head by head."""

    def __init__(self, spec: Gpt) -> None:
        super().__init__(spec.heads, spec.width)
        inner = spec.heads * spec.shape(1).head_width
        self.spec = spec
        self.qkv, self.project = nn.Linear(spec.width, 3 * inner, bias=False), nn.Linear(inner, spec.width, bias=False)
        if spec.head_norms:
            self.q_norm, self.k_norm = (nn.LayerNorm(inner // spec.heads, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, self.spec.heads, -1))
        q, k, v = heads.unbind(2)
        if self.spec.head_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return y


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("head_norms", [False, True])
def test_blocks_keep_and_need_what_torch_allocates(sizes: dict[str, Any], head_norms: bool) -> None:
    spec = gpt(**sizes, head_norms=head_norms)
    block, mark = WithHeadNorms(spec), block_of(spec)
    x = torch.randn(spec.batch, spec.context, spec.width, requires_grad=True)
    # of norms of heads the means and deviations are not counted
    assert kept_bytes(lambda: block(x), *block.parameters()) == pytest.approx(mark.kept, rel=0.02)
    most = x.nbytes + most_allocated_bytes(lambda: (2.0 * block(x)).sum().backward())
    predicted = mark.kept + mark.backward
    print(f"{(predicted - most) / most:+.2%}")
    assert predicted == pytest.approx(most, rel=0.10)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_norm_of_roots_needs_what_a_layer_norm_needs(sizes: dict[str, Any]) -> None:
    """But for the means, it keeps the same: fused, since torch's own on a CPU is several operations."""
    layer, rms = (block_of(gpt(**sizes, norm=norm)) for norm in ("layer", "rms"))
    means_bytes = 2 * ELEMENT_BYTES * sizes["batch"] * sizes["context"]
    for name in ("kept", "backward", "accumulating"):
        assert abs(getattr(layer, name) - getattr(rms, name)) <= means_bytes, name


@pytest.mark.parametrize("options", [{}, {"norm": "rms"}, {"head_norms": True}, {"norm": "rms", "head_norms": True}])
def test_a_block_needs_no_more_than_its_halves(options: dict[str, Any]) -> None:
    """The gradient of the stream between two halves is there once, and the second's weights' gradients stay."""
    spec = gpt(**SIZES[0], **options)
    attention, other = gpt_halves(spec.shape(spec.batch), 1)
    halves = [footprint_of_layer(half) for half in (attention, other)]
    weights = sum(each.size_bytes for each in other.parameters)
    assert block_of(spec).backward <= max(halves[1].backward, halves[0].backward + weights)
