"""A GPT: token and position embedding, pre-norm blocks, a head.

As it stands without options, blocks have no biases and the head is tied to the token embedding; `family.py` says what
other families have instead. Tokens are the bytes of the text, so the vocabulary is 256 unless a plan says otherwise. A
tied weight is read by the first layer and by the head; its gradient is complete only after the first layer's backward
pass, the last of all.

With tensor parallelism over t ranks each holds 1/t of a block's products, of its heads and of the vocabulary, while the
norms and the residual stream are on all of them. A block then has two halves, attention and feed-forward, and what the
ranks have computed of the residual stream is summed after each. Source: Shoeybi et al., "Megatron-LM", 2019, section 3.

Attention is charged for all query heads, however few heads of keys and values there are: the products are the same, and
what is saved of the memory's traffic is little beside them. Only these few are kept for the backward pass.
"""

from __future__ import annotations

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.experts import mixture
from twinstep.workloads.gpt_shape import GptShape
from twinstep.workloads.half import (
    Between,
    Product,
    activation,
    backward_of,
    feed_forward,
    half,
    joined,
    norm_kernel,
    norm_parameters,
    normed_bytes,
)
from twinstep.workloads.model import Layer, Parameter

VOCABULARY = 256
"""Values of a byte."""
TIED_WEIGHT = "0.token.weight"
"""The name of the token embedding, which a tied head shares."""


def gpt_layers(shape: GptShape) -> tuple[Layer, ...]:
    """Describe the layers: embedding, two halves a block as one layer, head, loss."""
    body = (joined(gpt_halves(shape, index + 1), f"block{index + 1}") for index in range(shape.blocks))
    return (gpt_embedding(shape), *body, gpt_head(shape), gpt_loss(shape))


def gpt_embedding(shape: GptShape) -> Layer:
    """Describe the lookup of tokens; that of learned positions, and their sum."""
    vocabulary = shape.vocabulary // shape.tensor
    lookups = [Kernel("embedding_forward", (shape.tokens, vocabulary, shape.width))]
    parameters = [_token_weight(shape)]
    sums = []
    if shape.family.positions == "learned":
        lookups.append(Kernel("embedding_forward", (shape.context // shape.ring, shape.position_table, shape.width)))
        parameters.append(Parameter("0.position.weight", (shape.position_table, shape.width)))
        sums.append(Kernel("add_forward", (shape.tokens * shape.width,)))
    return Layer(
        name="embedding",
        parameters=tuple(parameters),
        forward=(*lookups, *sums),
        backward=(Kernel("backward_call", ()), *(backward_of(kernel) for kernel in (*sums, *lookups))),
        activation_bytes=0,
    )


def gpt_halves(shape: GptShape, index: int) -> tuple[Layer, Layer]:
    """Describe attention and feed-forward of block `index`; of a mixture, with all experts on this rank."""
    other = mixture(shape, index) if shape.family.is_mixture else gpt_feed_forward(shape, index)
    return gpt_attention(shape, index), other


def gpt_feed_forward(shape: GptShape, index: int) -> Layer:
    """Describe the feed-forward of block `index`, where it is no mixture."""
    inner = shape.feed_forward // shape.tensor
    between = Between((), (activation(shape, shape.tokens, inner),))
    return half(shape, f"{index}.norm2", feed_forward(shape, f"{index}", inner), between)


def gpt_attention(shape: GptShape, index: int) -> Layer:
    """Describe the attention of block `index`."""
    family = shape.family
    queries = shape.heads // shape.tensor
    keys = shape.kv_heads // shape.tensor
    products = (
        Product(f"{index}.qkv", shape.width, (queries + 2 * keys) * shape.head_width, family.biases != "none"),
        Product(f"{index}.project", queries * shape.head_width, shape.width, family.biases == "all"),
    )
    parameters: list[Parameter] = []
    kernels: list[Kernel] = []
    if family.head_norms:
        parameters = [Parameter(f"{index}.{name}.weight", (shape.head_width,)) for name in ("q_norm", "k_norm")]
        kernels = [norm_kernel(shape, shape.tokens * heads, shape.head_width) for heads in (queries, keys)]
    if family.positions == "rotary":
        kernels += [Kernel("rotary_forward", (shape.tokens * n * shape.head_width,)) for n in (queries, keys)]
    run = shape.context // shape.ring
    kernels += [Kernel("attention_forward", (shape.samples * queries, run, shape.head_width))] * shape.ring
    kept = (queries + keys) * shape.head_width if family.head_norms else 0  # what the norms have read
    return half(shape, f"{index}.norm1", products, Between(tuple(parameters), tuple(kernels), kept))


def gpt_head(shape: GptShape) -> Layer:
    """Describe the last norm and the product with the token embedding, or with a weight of the head's own."""
    product = (shape.tokens, shape.width, shape.vocabulary // shape.tensor)
    normed = norm_kernel(shape, shape.tokens, shape.width)
    own = Parameter(f"{shape.blocks + 1}.weight", _token_weight(shape).shape)
    return Layer(
        name="head",
        parameters=(
            *norm_parameters(shape, f"{shape.blocks + 1}.norm"),
            _token_weight(shape) if shape.family.tied else own,
        ),
        forward=(normed, Kernel("linear_forward", product)),
        backward=(Kernel("backward_call", ()), Kernel("linear_backward", product), backward_of(normed)),
        activation_bytes=normed_bytes(shape),
    )


def gpt_loss(shape: GptShape) -> Layer:
    """Describe the cross entropy of every token."""
    logits = (shape.tokens, shape.vocabulary // shape.tensor)
    return Layer(
        name="loss",
        parameters=(),
        forward=(Kernel("cross_entropy_forward", logits),),
        backward=(Kernel("backward_call", ()), Kernel("cross_entropy_backward", logits)),
        activation_bytes=ELEMENT_BYTES * shape.tokens * logits[1],
    )


def is_whole(parameter: Parameter) -> bool:
    """Tell whether every tensor-parallel rank has all of a parameter.

    Those are norms, positions, routers, and the biases of products whose inputs are shared, which are added to the sum.

    >>> is_whole(Parameter("1.norm1.weight", (8,))), is_whole(Parameter("1.qkv.weight", (24, 8)))
    (True, False)
    >>> is_whole(Parameter("1.down.bias", (8,))), is_whole(Parameter("1.up.bias", (32,)))
    (True, False)
    """
    norms = (".norm", ".q_norm.", ".k_norm.")
    return any(part in parameter.name for part in (*norms, ".position.", ".router.", ".project.bias", ".down.bias"))


def is_head_norm(parameter: Parameter) -> bool:
    """Tell whether a parameter is of a norm of heads, of which each tensor-parallel rank has its own.

    >>> is_head_norm(Parameter("1.q_norm.weight", (8,))), is_head_norm(Parameter("1.norm1.weight", (8,)))
    (True, False)
    """
    return ".q_norm." in parameter.name or ".k_norm." in parameter.name


def _token_weight(shape: GptShape) -> Parameter:
    return Parameter(TIED_WEIGHT, (shape.vocabulary // shape.tensor, shape.width))
