"""A small GPT: token and position embedding, pre-norm blocks without biases, a head tied to the token embedding.

Tokens are the bytes of the text, so the vocabulary is 256. The tied weight is read by the first layer and by the head;
its gradient is complete only after the first layer's backward pass, the last of all.
"""

from __future__ import annotations

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.model import Layer, Parameter

VOCABULARY = 256


def gpt_layers(blocks: int, heads: int, width: int, context: int, samples: int) -> tuple[Layer, ...]:
    """Describe the layers for `samples` windows of `context` tokens."""
    tokens = samples * context
    tied = Parameter("0.token.weight", (VOCABULARY, width))
    body = (_block(index + 1, heads, width, context, samples) for index in range(blocks))
    return (_embedding(tied, width, context, tokens), *body, _head(tied, blocks + 1, width, tokens), _loss(tokens))


def _embedding(tied: Parameter, width: int, context: int, tokens: int) -> Layer:
    lookups = ((tokens, VOCABULARY, width), (context, context, width))
    return Layer(
        name="embedding",
        parameters=(tied, Parameter("0.position.weight", (context, width))),
        forward=(
            *(Kernel("embedding_forward", lookup) for lookup in lookups),
            Kernel("add_forward", (tokens * width,)),
        ),
        backward=(
            Kernel("backward_call", ()),
            Kernel("add_backward", (tokens * width,)),
            *(Kernel("embedding_backward", lookup) for lookup in lookups),
        ),
        activation_bytes=0,
    )


def _block(index: int, heads: int, width: int, context: int, samples: int) -> Layer:
    tokens = samples * context
    products = {
        "qkv": (width, 3 * width),
        "project": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    attention = (samples * heads, context, width // heads)
    return Layer(
        name=f"block{index}",
        parameters=(
            Parameter(f"{index}.norm1.weight", (width,)),
            Parameter(f"{index}.norm2.weight", (width,)),
            *(Parameter(f"{index}.{name}.weight", (n, k)) for name, (k, n) in products.items()),
        ),
        forward=(
            *(Kernel("linear_forward", (tokens, k, n)) for k, n in products.values()),
            *(Kernel("layer_norm_forward", (tokens, width)),) * 2,
            Kernel("attention_forward", attention),
            Kernel("gelu_forward", (tokens * 4 * width,)),
            *(Kernel("add_forward", (tokens * width,)),) * 2,
        ),
        backward=(
            Kernel("backward_call", ()),
            *(Kernel("linear_backward", (tokens, k, n)) for k, n in products.values()),
            *(Kernel("layer_norm_backward", (tokens, width)),) * 2,
            Kernel("attention_backward", attention),
            Kernel("gelu_backward", (tokens * 4 * width,)),
            *(Kernel("add_backward", (tokens * width,)),) * 2,
        ),
        activation_bytes=ELEMENT_BYTES * tokens * width * 16,
    )


def _head(tied: Parameter, index: int, width: int, tokens: int) -> Layer:
    product = (tokens, width, VOCABULARY)
    return Layer(
        name="head",
        parameters=(Parameter(f"{index}.norm.weight", (width,)), tied),
        forward=(Kernel("layer_norm_forward", (tokens, width)), Kernel("linear_forward", product)),
        backward=(
            Kernel("backward_call", ()),
            Kernel("linear_backward", product),
            Kernel("layer_norm_backward", (tokens, width)),
        ),
        activation_bytes=ELEMENT_BYTES * tokens * (2 * width + VOCABULARY),
    )


def _loss(tokens: int) -> Layer:
    logits = (tokens, VOCABULARY)
    return Layer(
        name="loss",
        parameters=(),
        forward=(Kernel("cross_entropy_forward", logits),),
        backward=(Kernel("backward_call", ()), Kernel("cross_entropy_backward", logits)),
        activation_bytes=ELEMENT_BYTES * tokens * VOCABULARY,
    )
