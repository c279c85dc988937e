"""Parts: what one half of a block, the embedding, the head or the loss does in each pass, as pieces.

Between tensor-parallel ranks:

    part          exchanged in its forward pass     exchanged in its backward pass
    embedding     sum of the residual stream        nothing
    attention     sum of the residual stream        sum of the residual stream's gradient
    feed-forward  sum of the residual stream        sum of the residual stream's gradient
    head          nothing                           sum of the residual stream's gradient
    loss          sums of three numbers a token     nothing

With sequence parallelism each sum becomes a scatter of sums after the products, and a gather before the next ones,
which move as many bytes together; norms and residual sums are shared by tokens. The three numbers of the loss are the
largest logit, the sum of exponentials and the target's logit. Sources: Shoeybi et al., "Megatron-LM", 2019, section 3,
and its `vocab_parallel_cross_entropy`; Korthikanti et al., "Reducing activation recomputation in large transformer
models", 2022, section 4.2.

Context-parallel ranks have equal shares of each sample's tokens, such that causal attention costs each the same (the
first and the last of 2n runs, and so on). Attention meets the keys and values of every rank in turn: they go round a
ring of n ranks in n - 1 shifts, again in the backward pass, and there their gradients go round in n. Source: Liu et
al., "Ring attention", 2023.

A mixture of experts has two all-to-alls in each pass: rows travel to their experts and back. Their parts are what there
is to send, without padding, so the rank with most rows gets most on the way there and gives most on the way back. With
sequence parallelism rows are gathered before their experts and scattered after them, and nothing is summed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.partition import Partition
from twinstep.programs.mesh import CONTEXT, EXPERT, TENSOR
from twinstep.programs.pieces import Exchange, Piece
from twinstep.splits import Splits
from twinstep.timeline import CollectiveKind
from twinstep.workloads import (
    GptShape,
    Layer,
    dispatch_bytes,
    expert_loads,
    expert_products,
    expert_router,
    expert_sum,
    expert_tokens,
    gpt_attention,
    gpt_embedding,
    gpt_feed_forward,
    gpt_head,
    gpt_loss,
    joined,
)

Pieces = tuple[Piece, ...]
Kernels = tuple[Kernel, ...]
Runs = tuple[Kernels, ...]
_NUMBERS_A_TOKEN = 3
_CORES = ("attention", "gelu", "silu_mul")


@dataclass(frozen=True, slots=True)
class Part:
    """What is computed between two moments without an exchange: embedding, half of a block, head or loss."""

    layer: Layer
    block: int | None
    """The block that it belongs to; None for embedding, head and loss."""
    forward: Pieces
    backward: Pieces
    kept_bytes: int
    """What the forward pass of one microbatch keeps for the backward pass."""

    @property
    def inputs_backward(self) -> Pieces:
        """Give the half of the backward pass that makes the gradients of inputs, and all exchanges."""
        return tuple(replace(piece, kernels=tuple(_of_inputs(piece.kernels))) for piece in self.backward)

    @property
    def weights_backward(self) -> Pieces:
        """Give the half that makes the gradients of weights, for which no other rank waits."""
        kernels = tuple(kernel for piece in self.backward for kernel in _of_weights(piece.kernels))
        return (Piece(kernels),) if kernels else ()


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes the parts of a GPT of some shape, as one rank of a partition computes it."""

    shape: GptShape
    partition: Partition
    seed: int = 0
    """It decides which experts get many tokens."""
    expert: int = 0
    """The rank's position among those that share the experts."""

    def embedding(self) -> Part:
        """Look tokens and positions up."""
        layer = gpt_embedding(self.shape)
        return self._end(layer, (Piece(layer.forward), *self._sum()), (*self._gather(), Piece(layer.backward)))

    def block(self, index: int) -> tuple[Part, Part]:
        """Attend, then feed forward."""
        attention = gpt_attention(self.shape, index + 1)
        one = self._half(attention, index)
        if self.shape.family.is_mixture:
            other = self._mixture(index)
        else:
            other = self._half(gpt_feed_forward(self.shape, index + 1), index)
        if self.partition.recompute == "selective":
            core = self._ring(runs(attention.forward)[2])
            return replace(one, backward=(*core, *one.backward), kept_bytes=one.kept_bytes - self._core_bytes), other
        if self.partition.recompute == "full":
            again = (*one.forward, *_as_far_as_needed(other.forward))
            one = replace(one, kept_bytes=self.shape.own_stream_bytes)
            return one, replace(other, backward=again + other.backward, kept_bytes=0)
        return one, other

    def ending(self) -> tuple[Part, Part]:
        """Make logits, then the loss."""
        head, loss = gpt_head(self.shape), gpt_loss(self.shape)
        numbers = self._exchange("all_reduce", ELEMENT_BYTES * self.shape.tokens) * _NUMBERS_A_TOKEN
        return (
            self._end(head, (*self._gather(), Piece(head.forward)), (Piece(head.backward), *self._sum())),
            self._end(loss, (Piece(loss.forward), *numbers), (Piece(loss.backward),)),
        )

    def _end(self, layer: Layer, forward: Pieces, backward: Pieces) -> Part:
        return Part(layer, None, forward, backward, layer.activation_bytes)

    def _half(self, layer: Layer, block: int) -> Part:
        forward = self._pass(layer.forward, runs(layer.forward), self._ring)
        backward = self._pass(layer.backward, runs(layer.backward)[::-1], self._backward_ring)
        return Part(layer, block, tuple(forward), tuple(backward), layer.activation_bytes)

    def _mixture(self, index: int) -> Part:
        """Send rows to their experts, and fetch what these make of them."""
        shape, ranks, place = self.shape, self.partition.expert, (self.shape, index + 1, self.seed)
        own = expert_tokens(*place, ranks)[self.expert]
        sent_rows = sum(expert_loads(*place))
        layers = (
            expert_router(shape, index + 1, sent_rows),
            expert_products(shape, index + 1, self.expert * len(own), own),
            expert_sum(shape, index + 1, sent_rows),
        )
        there, back = self._travel(dispatch_bytes(*place, ranks))
        rows_bytes = ELEMENT_BYTES * shape.width * sum(own)
        gather, scatter = (self._of_rows(kind, rows_bytes) for kind in ("all_gather", "reduce_scatter"))
        after = () if self.partition.sequence_parallel else self._sum()
        forward, backward = [Piece(each.forward) for each in layers], [Piece(each.backward) for each in layers]
        layer = joined(layers, f"{index + 1}.norm2")
        return Part(
            layer,
            index,
            (forward[0], *there, *gather, forward[1], *scatter, *back, forward[2], *after),
            (backward[2], *there, *gather, backward[1], *scatter, *back, backward[0], *after),
            layer.activation_bytes,
        )

    def _of_rows(self, kind: Literal["all_gather", "reduce_scatter"], rows_bytes: int) -> Pieces:
        """Exchange the rows of experts that tensor-parallel ranks share, where each has dispatched its own tokens."""
        return self._exchange(kind, rows_bytes) if self.partition.sequence_parallel else ()

    def _travel(self, sizes_bytes: tuple[int, ...]) -> tuple[Pieces, Pieces]:
        """Send every rank as many bytes as `sizes_bytes` says, and fetch them again."""
        if self.partition.expert == 1:
            return (), ()
        there = Splits("target", sizes_bytes) if len(set(sizes_bytes)) > 1 else None
        splits = (there, there.back) if there else (None, None)
        exchanges = (Exchange("all_to_all", EXPERT, sum(sizes_bytes), each, self.expert) for each in splits)
        dispatch, combine = (Piece((), (exchange,)) for exchange in exchanges)
        return (dispatch,), (combine,)

    def _pass(self, kernels: Kernels, order: Runs, ring: Callable[[Kernels], Pieces]) -> Iterator[Piece]:
        """Put exchanges around a half's kernels, and into them; `order` is that of the pass."""
        shares_tokens, rings = self.partition.sequence_parallel, self.partition.context > 1
        if not (shares_tokens or rings):
            yield Piece(kernels)
            yield from self._sum()
            return
        first, before, core, after, last = order
        if shares_tokens:
            yield Piece(first)
            yield from self._gather()
        else:
            before, after = first + before, after + last
        attends = any(kernel.name.startswith("attention") for kernel in core)
        if rings and attends:
            yield from (Piece(before), *ring(core), Piece(after))
        else:
            yield Piece(before + core + after)
        yield from self._sum()
        if shares_tokens:
            yield Piece(last)

    @property
    def _core_bytes(self) -> int:
        """What the core of attention gives: its output, and the logarithm of a sum for each token and head."""
        return ELEMENT_BYTES * self.shape.tokens * self.shape.heads * (self.shape.head_width + 1) // self.shape.tensor

    def _ring(self, core: Kernels) -> Pieces:
        """Attend to one block of keys and values while the next travels."""
        shift = Exchange("shift", CONTEXT, self.shape.keys_and_values_bytes)
        return (*(Piece((kernel,), (shift,)) for kernel in core[:-1]), Piece(core[-1:]))

    def _backward_ring(self, core: Kernels) -> Pieces:
        """Do the same, and pass on the gradients of the block before; last, those of the own block come home."""
        shift = Exchange("shift", CONTEXT, self.shape.keys_and_values_bytes)
        count = len(core)
        pieces = (Piece((kernel,), (shift,) * ((index < count - 1) + (index > 0))) for index, kernel in enumerate(core))
        return (*pieces, Piece((), (shift,)))

    def _gather(self) -> Pieces:
        """Gather the residual stream where ranks share its tokens."""
        return self._exchange("all_gather", self.shape.stream_bytes) if self.partition.sequence_parallel else ()

    def _sum(self) -> Pieces:
        """Sum the residual stream, or its gradient."""
        scatters = self.partition.sequence_parallel
        return self._exchange("reduce_scatter" if scatters else "all_reduce", self.shape.stream_bytes)

    def _exchange(self, kind: CollectiveKind, size_bytes: int) -> Pieces:
        return (Piece((), (Exchange(kind, TENSOR, size_bytes),)),) if self.partition.tensor > 1 else ()


def runs(kernels: Kernels) -> Runs:
    """Sort the kernels of a half: its norm, what leads to its core, the core, the product out of it, residual sum."""
    by_run: dict[str, list[Kernel]] = {name: [] for name in ("norm", "into", "core", "out of", "sum")}
    products = [kernel for kernel in kernels if kernel.name.startswith("linear")]
    for kernel in kernels:
        if "_norm_" in kernel.name and not by_run["norm"]:  # those of heads come later
            run = "norm"
        elif kernel.name.startswith("add") or kernel.name == "backward_call":
            run = "sum"
        elif kernel.name.startswith(_CORES):
            run = "core"
        else:
            run = "out of" if kernel is products[-1] else "into"
        by_run[run].append(kernel)
    norm, into, core, out_of, added = (tuple(run) for run in by_run.values())
    return norm, into, core, out_of, added


def _as_far_as_needed(pieces: Pieces) -> Pieces:
    """Stop before the last operation that keeps what it reads, as torch's `checkpoint` does.

    No gradient needs its result. It is the product that leads back to the residual stream; in a mixture, the sum of
    rows by their weights.
    """
    end = max(index for index, piece in enumerate(pieces) if any(map(_keeps_inputs, piece.kernels)))
    kernels = pieces[end].kernels
    last = max(index for index, kernel in enumerate(kernels) if _keeps_inputs(kernel))
    needed = (kernel for index, kernel in enumerate(kernels) if index != last and kernel.name != "add_forward")
    return (*pieces[:end], Piece(tuple(needed)))


def _keeps_inputs(kernel: Kernel) -> bool:
    return kernel.name in ("linear_forward", "weighted_sum_forward")


def _of_inputs(kernels: Kernels) -> Iterator[Kernel]:
    for kernel in kernels:
        if kernel.name == "linear_backward":
            yield replace(kernel, name="linear_input_backward")
        elif kernel.name != "embedding_backward":
            yield kernel


def _of_weights(kernels: Kernels) -> Iterator[Kernel]:
    for kernel in kernels:
        if kernel.name == "linear_backward":
            yield replace(kernel, name="linear_weight_backward")
        elif kernel.name in ("backward_call", "embedding_backward"):
            yield kernel
