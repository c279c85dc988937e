"""A GPT: token and position embedding, pre-norm blocks without biases, a head tied to the token embedding.

Tokens are the bytes of the text, so the vocabulary is 256 unless a plan says otherwise. The tied weight is read by the
first layer and by the head; its gradient is complete only after the first layer's backward pass, the last of all.

With tensor parallelism over t ranks each holds 1/t of a block's products, of its heads and of the vocabulary, while the
norms and the residual stream are on all of them. A block then has two halves, attention and feed-forward, and what the
ranks have computed of the residual stream is summed after each. Source: Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.model import Layer, Parameter

VOCABULARY = 256
"""Values of a byte."""
TIED_WEIGHT = "0.token.weight"
"""The name of the parameter that embedding and head share."""


@dataclass(frozen=True, slots=True)
class GptShape:
    """A GPT as one of `tensor` ranks computes it for some samples."""

    blocks: int
    heads: int
    width: int
    context: int
    vocabulary: int
    samples: int
    tensor: int = 1
    """Ranks that share each block; divides heads, width and vocabulary."""

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return self.samples * self.context

    @property
    def stream_bytes(self) -> int:
        """Bytes of the residual stream: what is summed after each half of a block and sent between stages."""
        return ELEMENT_BYTES * self.tokens * self.width


def gpt_layers(shape: GptShape) -> tuple[Layer, ...]:
    """Describe the layers: embedding, two halves a block as one layer, head, loss."""
    body = (_joined(gpt_halves(shape, index + 1), f"block{index + 1}") for index in range(shape.blocks))
    return (gpt_embedding(shape), *body, gpt_head(shape), gpt_loss(shape))


def gpt_embedding(shape: GptShape) -> Layer:
    """Describe the lookup of tokens and positions, and their sum."""
    vocabulary = shape.vocabulary // shape.tensor
    lookups = ((shape.tokens, vocabulary, shape.width), (shape.context, shape.context, shape.width))
    added = shape.tokens * shape.width
    return Layer(
        name="embedding",
        parameters=(_tied(shape), Parameter("0.position.weight", (shape.context, shape.width))),
        forward=(*(Kernel("embedding_forward", lookup) for lookup in lookups), Kernel("add_forward", (added,))),
        backward=(
            Kernel("backward_call", ()),
            Kernel("add_backward", (added,)),
            *(Kernel("embedding_backward", lookup) for lookup in lookups),
        ),
        activation_bytes=0,
    )


def gpt_halves(shape: GptShape, index: int) -> tuple[Layer, Layer]:
    """Describe attention and feed-forward of block `index`."""
    width, part = shape.width, shape.width // shape.tensor
    heads = shape.samples * shape.heads // shape.tensor
    attention = Kernel("attention_forward", (heads, shape.context, width // shape.heads))
    gelu = Kernel("gelu_forward", (shape.tokens * 4 * part,))
    first = {f"{index}.qkv": (width, 3 * part), f"{index}.project": (part, width)}
    second = {f"{index}.up": (width, 4 * part), f"{index}.down": (4 * part, width)}
    return _half(shape, f"{index}.norm1", first, attention), _half(shape, f"{index}.norm2", second, gelu)


def gpt_head(shape: GptShape) -> Layer:
    """Describe the last norm and the product with the tied embedding."""
    product = (shape.tokens, shape.width, shape.vocabulary // shape.tensor)
    return Layer(
        name="head",
        parameters=(Parameter(f"{shape.blocks + 1}.norm.weight", (shape.width,)), _tied(shape)),
        forward=(Kernel("layer_norm_forward", (shape.tokens, shape.width)), Kernel("linear_forward", product)),
        backward=(
            Kernel("backward_call", ()),
            Kernel("linear_backward", product),
            Kernel("layer_norm_backward", (shape.tokens, shape.width)),
        ),
        activation_bytes=ELEMENT_BYTES * shape.tokens * (2 * shape.width + shape.vocabulary // shape.tensor),
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


def _tied(shape: GptShape) -> Parameter:
    return Parameter(TIED_WEIGHT, (shape.vocabulary // shape.tensor, shape.width))


def _half(shape: GptShape, norm: str, products: dict[str, tuple[int, int]], between: Kernel) -> Layer:
    """Describe a half: norm, product, what lies between the products, product, residual sum."""
    stream = (shape.tokens, shape.width)
    added = (shape.tokens * shape.width,)
    (_, into), (out_of, _) = products.values()
    return Layer(
        name=norm,
        parameters=(
            Parameter(f"{norm}.weight", (shape.width,)),
            *(Parameter(f"{name}.weight", (n, k)) for name, (k, n) in products.items()),
        ),
        forward=(
            *(Kernel("linear_forward", (shape.tokens, k, n)) for k, n in products.values()),
            Kernel("layer_norm_forward", stream),
            between,
            Kernel("add_forward", added),
        ),
        backward=(
            Kernel("backward_call", ()),
            *(Kernel("linear_backward", (shape.tokens, k, n)) for k, n in products.values()),
            Kernel("layer_norm_backward", stream),
            Kernel(between.name.replace("forward", "backward"), between.shape),
            Kernel("add_backward", added),
        ),
        activation_bytes=ELEMENT_BYTES * shape.tokens * (2 * shape.width + into + out_of),
    )


def _joined(halves: tuple[Layer, Layer], name: str) -> Layer:
    """Join two halves into one layer with one call of its backward pass."""
    one, other = halves
    return Layer(
        name=name,
        parameters=one.parameters + other.parameters,
        forward=one.forward + other.forward,
        backward=one.backward + other.backward[1:],
        activation_bytes=one.activation_bytes + other.activation_bytes,
    )
