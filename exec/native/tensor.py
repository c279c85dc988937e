"""Tensor: Megatron's split of a GPT over tensor-parallel ranks, done by torch's own DTensor styles.

Each rank has whole heads and a part of the feed-forward's width and of the vocabulary. With sequence parallelism ranks
share the residual stream, too, by the tokens of each sample, and each norm sees its own tokens alone. What torch 2.13
does for one microbatch, all among the ranks of one row of `tensor`, in this order; a gather's bytes are those of its
result, a scatter's those of its input:

    part          forward                          backward, parts in reverse order
    embedding     all_reduce R                     nothing
    attention     all_reduce R                     all_reduce R
    feed-forward  all_reduce R                     all_reduce R
    head          nothing                          all_reduce R
    loss          all_reduce T, three times        nothing

    with sequence parallelism
    embedding     reduce_scatter R                 all_gather R
    attention     all_gather R, reduce_scatter R   all_gather R, reduce_scatter R
    feed-forward  all_gather R, reduce_scatter R   all_gather R, reduce_scatter R
    head          all_gather R                     reduce_scatter R
    loss          all_reduce T, three times        nothing

Legend: R bytes of the whole residual stream, 4 * tokens * width; T = 4 * tokens. The loss needs the largest logit, the
sum of exponentials and the target's logarithm, one after another. The sum or scatter of the backward pass stands
between the gradients of a product's weight and input and the norm's backward pass, which waits for it at once. Torch
keeps what was gathered for the backward pass, where Megatron-LM gathers it again.

With sequence parallelism the gradients of norms and positions are of a rank's own tokens. Torch leaves them so until
somebody needs their sum: `fully_shard` and `replicate` once a step, before they reduce a unit over `data`; without
them an optimizer, AdamW three times a parameter. `complete_gradients` does it once: an all_reduce of 4 * width bytes a
norm and of 4 * context * width bytes for positions.

The gradient of the token embedding is first made for the whole vocabulary on every rank, and cut without communication:
with that of the head where both share the weight, by `complete_gradients` on a pipeline's first stage.

Sources: Shoeybi et al., "Megatron-LM", 2019, section 3; Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models", 2022; torchtitan, `models/llama3/parallelize.py`, for the styles.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from twinstep.exec.models import Block, Embedding, Head

_TOKENS = 1
"""The dimension of the residual stream that counts a sample's tokens."""


def share_tensors(layers: nn.Module, mesh: DeviceMesh, *, sequence_parallel: bool) -> None:
    """Cut the embedding, blocks and head among `layers` over the ranks of `mesh`'s dimension `tensor`, in place.

    Initial values must be equal on these ranks: each keeps its part, and nothing is sent. What layers give each other
    are plain tensors, (samples, context, width), or (samples, context / ranks, width) with sequence parallelism. The
    head gives its logits as a DTensor shared by the vocabulary: compute the loss and its backward pass within torch's
    `loss_parallel`.
    """
    for layer in layers.children():
        parallelize_module(layer, mesh["tensor"], _styles(layer, sequence_parallel), src_data_rank=None)
        if isinstance(layer, Embedding) and sequence_parallel:
            _share_positions(layer.position, mesh["tensor"])
    _tie(layers)


def complete_gradients(layers: nn.Module) -> None:
    """Sum gradients that are of a rank's own tokens, and give each its parameter's share; call it before an update."""
    for parameter in layers.parameters():
        gradient = parameter.grad
        if isinstance(parameter, DTensor) and isinstance(gradient, DTensor):
            parameter.grad = gradient.redistribute(placements=parameter.placements)


def whole(tensor: Tensor) -> Tensor:
    """Give a tensor's values as one process would have them; every rank that has a part of them must call this."""
    found = tensor.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def _styles(layer: nn.Module, sequence_parallel: bool) -> dict[str, ParallelStyle]:
    stream = Shard(_TOKENS) if sequence_parallel else Replicate()
    norms: dict[str, ParallelStyle] = {}
    match layer:
        case Embedding():
            return {"token": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream)}
        case Block():
            if sequence_parallel:
                norms = {name: SequenceParallel() for name in ("norm1", "norm2")}
            into = {name: ColwiseParallel(input_layouts=stream) for name in ("qkv", "up")}
            out_of = {name: RowwiseParallel(output_layouts=stream) for name in ("project", "down")}
            return norms | into | out_of
        case Head():
            if sequence_parallel:
                norms = {"norm": SequenceParallel()}
            return norms | {"product": ColwiseParallel(input_layouts=stream, use_local_output=False)}
    raise TypeError(f"a GPT has no layer {type(layer).__name__}")


def _share_positions(position: nn.Embedding, mesh: DeviceMesh) -> None:
    """Let each rank look up its own tokens' positions; every rank has them all, and nothing is sent."""
    own = PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(0))
    parallelize_module(position, mesh, own)
    parallelize_module(position, mesh, SequenceParallel(sequence_dim=0, use_local_output=True))


def _tie(layers: nn.Module) -> None:
    """Let embedding and head share their weight again; each style has made a parameter of its own."""
    embeddings = [layer for layer in layers.children() if isinstance(layer, Embedding)]
    heads = [layer for layer in layers.children() if isinstance(layer, Head)]
    for embedding, head in zip(embeddings, heads, strict=False):  # a stage of a pipeline may lack one or both
        head.product.weight = embedding.token.weight
