"""Context: the tokens of each sample shared by ranks, with torch's own ring attention.

Everything but attention goes on token by token. In attention each rank keeps its queries while keys and values go round
the ring of a row of `context`; the partial results are merged by their log-sum-exp. Torch 2.13 does, for each attention
of a microbatch:

    forward   c - 1 shifts of K bytes
    backward  c - 1 shifts of K bytes (keys and values again), c of K bytes (the gradients of keys and values)

Legend: c context-parallel ranks; K = 2 * 4 * tokens * width / t, where tokens are the rank's own and t tensor-parallel
ranks share the heads. A shift sends to the next rank of the row and receives from the one before it; torch makes it an
all_to_all_single in which all other pairs have nothing to say. The shift of keys and values starts before a block is
computed, and is waited for after it; that of gradients starts after a block is computed, and is waited for after the
next one, the last at once.

A causal mask leaves early tokens less to do. Torch cuts each sample into 2c pieces and gives rank r the pieces r and
2c - 1 - r, if 2c divides the context: after the first, causal block, all ranks compute as much in each block.

On a CPU, torch attends with a kernel that `context_parallel` does not know ("Operator
aten._scaled_dot_product_flash_attention_for_cpu.default does not have a sharding strategy registered"). It is entered
into torch's own table here, and called by torch's own ring.

The gradients of all parameters are of a rank's own tokens: sum them over `context` and `data` together.

Sources: Liu, Zaharia and Abbeel, "Ring Attention with Blockwise Transformers", 2023; torch,
`distributed/tensor/experimental/_context_parallel/_attention.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import set_rotate_method
from torch.distributed.tensor.experimental._context_parallel import _attention as ring

from twinstep.exec.models import Embedding

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_TOKENS = 2
"""The dimension of queries, keys and values, (samples, heads, context, head width), that counts a sample's tokens."""
Sharing = Callable[[Tensor, Tensor], AbstractContextManager[tuple[Tensor, Tensor]]]
"""Gives a rank's own part of samples and targets while it is entered."""


@contextmanager
def share_context(
    layers: nn.Module, mesh: DeviceMesh, tokens: Tensor, targets: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give a rank's own tokens and targets, (samples, context / ranks) each, of those of the whole samples.

    While it is entered, positions are those of the rank's own tokens, and attention goes round the ring of `mesh`'s
    dimension `context`; the backward pass must be within, too. All ranks of the ring must give the same samples.
    """
    own = [tokens.clone(), targets.clone()]
    positions = [layer.get_buffer("positions") for layer in layers.modules() if isinstance(layer, Embedding)]
    set_rotate_method("alltoall")
    with context_parallel(
        mesh["context"],
        buffers=[*own, *positions],
        buffer_seq_dims=[1, 1, *(0 for _ in positions)],
        no_restore_buffers=set(own),
    ):
        yield own[0], own[1]


def context_sharing(layers: nn.Module, mesh: DeviceMesh, ranks: int) -> Sharing:
    """Give what surrounds the passes of a step, where this many ranks share the tokens of each sample."""
    if ranks == 1:
        return lambda tokens, targets: nullcontext((tokens, targets))
    return partial(share_context, layers, mesh)


def _ring_forward(
    mesh: DeviceMesh,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Attend round the ring; the arguments are those of the CPU's kernel."""
    return ring._templated_ring_attention(
        mesh.get_group(), _TOKENS, _FORWARD, query, key, value, is_causal, dropout_p=dropout_p, **options
    )


def _ring_backward(mesh: DeviceMesh, grad_out: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    *tensors, dropout_p, is_causal = arguments
    backward: Callable[..., tuple[Tensor, ...]] = ring._templated_ring_attention_backward
    return backward(
        mesh.get_group(), _TOKENS, _BACKWARD, grad_out, "grad_out", *tensors, is_causal, dropout_p=dropout_p, **options
    )


def _with_local_tensors(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[DTensor, ...]]:
    """Make a handler as torch's dispatcher of DTensors calls it; all tensors are shared by their tokens."""

    def handler(_: object, arguments: Sequence[Any], options: dict[str, Any]) -> tuple[DTensor, ...]:
        mesh = arguments[0].device_mesh
        local = (value.to_local() if isinstance(value, DTensor) else value for value in arguments)
        return tuple(
            DTensor.from_local(result, mesh, [Shard(_TOKENS)], run_check=False)
            for result in function(mesh, *local, **options)
        )

    return handler


ring.custom_ops.setdefault(_FORWARD, _with_local_tensors(_ring_forward))
ring.custom_ops.setdefault(_BACKWARD, _with_local_tensors(_ring_backward))
