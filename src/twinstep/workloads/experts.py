"""Experts: a mixture of experts in place of a block's feed-forward, in pieces between which tokens may travel.

    router      norm, a score for every expert, the best k of them, a row for each choice     on the rank of the token
    dispatch    all-to-all: every row goes to the rank of its expert
    experts     a feed-forward each, on the rows it gets                                      on the rank of the expert
    combine     all-to-all: every row comes back
    sum         rows weighted and summed, the shared expert, the residual sum                 on the rank of the token

Legend: E experts, k of them a token, T tokens that a rank alone has, w width, r ranks that share the experts, c
capacity factor, s exponent of the imbalance.

**Load.** A rank's T tokens make T k choices. The j-th most popular expert has a weight of j^-s (Zipf's law), and gets
its part of the choices; which expert is the j-th follows from a hash of seed, block and expert. A token chooses an
expert once at most, so none gets more than T; what one cannot get goes to the others by their weights. An expert takes
at most ceil(c T k / E) of a rank's choices, and the rest are dropped: no product, no bytes. Parts are rounded in
favour of the more popular. What loads really are depends on training; with a loss that balances them s is near 0.

**Tensor-parallel ranks** share each expert. With sequence parallelism each of t ranks has its own T tokens and
dispatches these alone; the t ranks with the same experts then gather their rows, compute, and scatter the sums of what
they made. Where loads are equal a rank gathers t T k rows, of which (t - 1)/t come from others. Source: Megatron-Core's
`MoEAlltoAllTokenDispatcher`: "A2A(EP)->AG(TP)" and "RS(TP)->A2A(EP)", with S/TP x B tokens a rank; by its README expert
and tensor parallelism go together with sequence parallelism only. Without it all t ranks have the same tokens here, and
each dispatches all of them.

**Bytes.** Dispatch sends T k w elements from each rank, less what is dropped, and combine the same back; so do both in
the backward pass. Of these 1/r stays on the rank where loads are equal. Sources: Lepikhin et al., "GShard", 2020,
sections 2.2 and 3.1; Fedus et al., "Switch Transformers", 2021, equation 3 and section 2.2; Megatron-Core's
`MoEAlltoAllTokenDispatcher`, which sends what there is rather than padding it to the capacity as GShard does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.gpt_shape import GptShape
from twinstep.workloads.half import (
    Product,
    activation,
    backward_of,
    feed_forward,
    joined,
    linear,
    norm_kernel,
    norm_parameters,
)
from twinstep.workloads.model import Layer, Parameter

_INDEX_ELEMENTS = 2
"""Indices have 8 bytes."""
_ROUNDING = 1e-12
"""What floating-point numbers may be off by: a part that is whole by the law is not rounded up."""


def is_expert(parameter: Parameter) -> bool:
    """Tell whether a parameter is one expert's own.

    >>> is_expert(Parameter("1.expert3.up.weight", (8, 8))), is_expert(Parameter("1.router.weight", (4, 8)))
    (True, False)
    """
    return ".expert" in parameter.name


def expert_loads(shape: GptShape, index: int, seed: int) -> tuple[int, ...]:
    """Count the choices of one rank's tokens that each expert of block `index` takes.

    >>> from twinstep.workloads.family import Family
    >>> shape = GptShape(1, 1, 8, 8, 256, samples=1, family=Family(experts=4, experts_per_token=2, imbalance=1))
    >>> sorted(expert_loads(shape, 1, seed=0))
    [1, 3, 4, 8]
    """
    family = shape.family
    choices = shape.own_tokens * family.experts_per_token
    factor = family.capacity_factor
    capacity = shape.own_tokens if factor is None else math.ceil(factor * choices / family.experts)
    weights = [(place + 1) ** -family.imbalance for place in range(family.experts)]
    demands = _dealt(choices, weights, shape.own_tokens)
    popular = sorted(range(family.experts), key=lambda expert: _hashed(seed, index, expert))
    loads = {expert: min(demand, capacity) for expert, demand in zip(popular, demands, strict=True)}
    return tuple(loads[expert] for expert in range(family.experts))


def _dealt(choices: int, weights: Sequence[float], most: int) -> list[int]:
    """Deal choices by weights, which fall, none getting more than `most`; the sum is exact.

    >>> _dealt(10, [1.0, 1.0, 1.0, 1.0], most=10), _dealt(10, [8.0, 1.0, 1.0], most=4)
    ([3, 3, 2, 2], [4, 3, 3])
    """
    left, dealt = choices, []
    following = [*accumulate(reversed(weights))][::-1]
    for weight, rest in zip(weights, following, strict=True):
        fair = left * weight / rest * (1 - _ROUNDING)
        dealt.append(min(most, math.ceil(fair)))
        left -= dealt[-1]
    return dealt


def _hashed(seed: int, index: int, expert: int) -> bytes:
    return hashlib.sha256(f"{seed} {index} {expert}".encode()).digest()


def expert_tokens(shape: GptShape, index: int, seed: int, ranks: int) -> tuple[tuple[int, ...], ...]:
    """For each of `ranks` ranks that share the experts, count the rows of each of its experts, from all of the ranks.

    Every rank has as many tokens as `shape`; `ranks` divides the experts. The rank with the most rows sets the time.
    With sequence parallelism rows of all tensor-parallel ranks are among them.
    """
    senders = ranks * (shape.tensor if shape.sequence_parallel else 1)
    of_all = [senders * load for load in expert_loads(shape, index, seed)]
    return tuple(tuple(part) for part in _parts(of_all, ranks))


def dispatch_bytes(shape: GptShape, index: int, seed: int, ranks: int) -> tuple[int, ...]:
    """Give the bytes of rows that each rank sends to each of `ranks` ranks, itself among them; combine sends them back.

    All ranks send the same, so rank j gets `ranks` times the j-th of these.
    """
    return tuple(ELEMENT_BYTES * shape.width * sum(part) for part in _parts(expert_loads(shape, index, seed), ranks))


def _parts(loads: Sequence[int], ranks: int) -> list[Sequence[int]]:
    each = len(loads) // ranks
    return [loads[rank * each : (rank + 1) * each] for rank in range(ranks)]


def expert_router(shape: GptShape, index: int, rows: int) -> Layer:
    """Describe norm, scores, choice, and the `rows` that are sent; on every rank of `tensor` the same.

    The rows themselves are kept by who computes with them.
    """
    family = shape.family
    scores = (Product(f"{index}.router", shape.width, family.experts),)
    tokens = shape.own_tokens
    normed = norm_kernel(shape, tokens, shape.width)
    choice = Kernel("top_k_gate_forward", (tokens, family.experts, family.experts_per_token))
    kept = 2 * shape.width + family.experts + (1 + _INDEX_ELEMENTS) * family.experts_per_token
    return Layer(
        name=f"{index}.router",
        parameters=(*norm_parameters(shape, f"{index}.norm2"), *scores[0].parameters),
        forward=(
            normed,
            *linear("forward", tokens, scores),
            choice,
            Kernel("gather_rows", (rows, shape.width)),
        ),
        backward=(
            Kernel("backward_call", ()),
            Kernel("weighted_sum_forward", (tokens, rows, shape.width)),  # rows' gradients, summed by token
            backward_of(choice),
            *linear("backward", tokens, scores),
            backward_of(normed),
        ),
        activation_bytes=ELEMENT_BYTES * tokens * kept,
    )


def expert_products(shape: GptShape, index: int, first: int, rows: Sequence[int]) -> Layer:
    """Describe a rank's experts, `first` and those after it, on as many rows as each of them gets."""
    inner = shape.feed_forward // shape.tensor
    experts = [feed_forward(shape, f"{index}.expert{first + place}", inner) for place in range(len(rows))]
    kept = shape.width + inner * len(experts[0])  # the input, what each product but the last gives, the last's input
    forward: list[Kernel] = []
    backward = [Kernel("backward_call", ())]
    for count, products in zip(rows, experts, strict=True):
        if count:
            between = activation(shape, count, inner)
            forward += [*linear("forward", count, products), between]
            backward += [*linear("backward", count, products), backward_of(between)]
    return Layer(
        name=f"{index}.experts",
        parameters=tuple(each for products in experts for product in products for each in product.parameters),
        forward=tuple(forward),
        backward=tuple(backward),
        activation_bytes=ELEMENT_BYTES * sum(rows) * kept,
    )


def expert_sum(shape: GptShape, index: int, rows: int) -> Layer:
    """Describe what becomes of the `rows` that came back: their weighted sum, the shared expert's, the residual sum."""
    summed = Kernel("weighted_sum_forward", (shape.own_tokens, rows, shape.width))
    added = Kernel("add_forward", (shape.own_tokens * shape.width,))
    own = Layer(
        name=f"{index}.sum",
        parameters=(),
        forward=(summed, added),
        backward=(Kernel("backward_call", ()), backward_of(added), backward_of(summed)),
        activation_bytes=ELEMENT_BYTES * rows * shape.width,
    )
    return joined((_shared_expert(shape, index), own), own.name) if shape.family.shared_expert else own


def _shared_expert(shape: GptShape, index: int) -> Layer:
    """Describe the expert for all tokens, whose output is weighted by a gate of its own (Qwen2-MoE)."""
    inner = shape.family.shared_expert // shape.tensor
    tokens = shape.tokens
    products = (
        *feed_forward(shape, f"{index}.shared", inner),
        Product(f"{index}.shared_gate", shape.width, 1),
    )
    others = (activation(shape, tokens, inner), Kernel("weighted_sum_forward", (tokens, tokens, shape.width)))
    kept = inner * (len(products) - 1) + shape.width + 1  # the input is the norm's output, which the router keeps
    return Layer(
        name=f"{index}.shared",
        parameters=tuple(parameter for product in products for parameter in product.parameters),
        forward=(*linear("forward", tokens, products), *others),
        backward=(
            Kernel("backward_call", ()),
            *linear("backward", tokens, products),
            *(backward_of(kernel) for kernel in others),
        ),
        activation_bytes=ELEMENT_BYTES * tokens * kept,
    )


def mixture(shape: GptShape, index: int) -> Layer:
    """Describe the half of block `index` that is a mixture, with all experts on one rank and nothing sent."""
    loads = expert_loads(shape, index, seed=0)  # on one rank it does not matter which expert has which load
    pieces = (
        expert_router(shape, index, sum(loads)),
        expert_products(shape, index, 0, loads),
        expert_sum(shape, index, sum(loads)),
    )
    return joined(pieces, f"{index}.norm2")
