"""What is computed again in a backward pass is what torch's checkpoint computes again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tests.families import FAMILIES, gpt
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from twinstep.exec.models import Block
from twinstep.partition import Partition
from twinstep.programs.parts import Part, Parts
from twinstep.workloads import Gpt

SIZES = {"kind": "gpt", "layers": 2, "heads": 2, "width": 32, "context": 16, "batch": 4}
KERNELS = {"mm": "linear_forward", "native_layer_norm": "layer_norm_forward", "gelu": "gelu_forward",
           "_scaled_dot_product_flash_attention_for_cpu": "attention_forward", "add": "add_forward"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts operations of a forward pass by the kernels that stand for them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in KERNELS:
            self.counts[KERNELS[name]] += 1
        return func(*args, **(kwargs or {}))


def again_by_torch(spec: Gpt) -> Counter[str]:
    """Count what the backward pass of a block does beyond that of one that keeps everything."""
    block = Block(spec.heads, spec.width)
    found: list[Counter[str]] = []
    for recomputes in (False, True):
        x = torch.randn(spec.batch, spec.context, spec.width, requires_grad=True)
        y: Tensor = checkpoint(block, x, use_reentrant=False) if recomputes else block(x)
        with Operations() as operations:
            y.sum().backward()
        found.append(operations.counts)
    return found[1] - found[0]


def parts_of(spec: Gpt, **partition: Any) -> tuple[Part, ...]:
    degrees = Partition.model_validate(partition)
    shape = spec.shape(spec.batch, degrees.tensor, degrees.context, degrees.sequence_parallel)
    return Parts(shape, degrees).block(0)


def again(spec: Gpt, **partition: Any) -> Counter[str]:
    """Count the kernels that the parts of a block compute again."""
    kernels = (
        k.name for part in parts_of(spec, recompute="full", **partition) for p in part.backward for k in p.kernels
    )
    return Counter(name for name in kernels if name.endswith("_forward"))


def test_a_block_computes_again_what_torch_computes_again() -> None:
    spec = Gpt.model_validate(SIZES)
    assert again(spec) == again_by_torch(spec)


@pytest.mark.parametrize("partition", [{}, {"tensor": 2}, {"tensor": 2, "sequence_parallel": True}, {"context": 2}])
@pytest.mark.parametrize("family", ["plain", "llama", "gpt2"])
def test_all_but_the_last_product_and_sum_is_computed_again(family: str, partition: dict[str, Any]) -> None:
    spec = gpt(**FAMILIES[family])
    forward = Counter(k.name for part in parts_of(spec, **partition) for p in part.forward for k in p.kernels)
    assert forward - again(spec, **partition) == {"linear_forward": 1, "add_forward": 1}


def test_experts_of_a_mixture_are_computed_again_since_their_weights_have_gradients() -> None:
    spec = gpt(**FAMILIES["mixtral"])
    forward = Counter(k.name for part in parts_of(spec) for p in part.forward for k in p.kernels)
    assert (forward - again(spec))["linear_forward"] == 0
