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
    ring: int = 1
    """Ranks that share the tokens of each sample; divides context."""
    sequence_parallel: bool = False
    """Whether the ranks that share a block also share the tokens of the residual stream; tensor divides them."""

    @property
    def tokens(self) -> int:
        """Tokens of all samples, those of this rank's share of each."""
        return self.samples * self.context // self.ring

    @property
    def own_tokens(self) -> int:
        """Tokens of the residual stream that this rank alone has, of the ranks that share a block."""
        return self.tokens // self.tensor if self.sequence_parallel else self.tokens

    @property
    def stream_bytes(self) -> int:
        """Bytes of the residual stream: what is summed after each half of a block."""
        return ELEMENT_BYTES * self.tokens * self.width

    @property
    def own_stream_bytes(self) -> int:
        """Bytes of the residual stream that this rank has between layers: what is sent between stages."""
        return ELEMENT_BYTES * self.own_tokens * self.width

    @property
    def keys_and_values_bytes(self) -> int:
        """Bytes of this rank's keys and values in one block."""
        return 2 * ELEMENT_BYTES * self.tokens * self.width // self.tensor


def gpt_layers(shape: GptShape) -> tuple[Layer, ...]:
    """Describe the layers: embedding, two halves a block as one layer, head, loss."""
    body = (_joined(gpt_halves(shape, index + 1), f"block{index + 1}") for index in range(shape.blocks))
    return (gpt_embedding(shape), *body, gpt_head(shape), gpt_loss(shape))


def gpt_embedding(shape: GptShape) -> Layer:
    """Describe the lookup of tokens and positions, and their sum."""
    vocabulary = shape.vocabulary // shape.tensor
    positions = shape.context // shape.ring
    lookups = ((shape.tokens, vocabulary, shape.width), (positions, shape.context, shape.width))
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
    core = (Kernel("attention_forward", (heads, shape.context // shape.ring, width // shape.heads)),) * shape.ring
    gelu = Kernel("gelu_forward", (shape.tokens * 4 * part,))
    first = {f"{index}.qkv": (width, 3 * part), f"{index}.project": (part, width)}
    second = {f"{index}.up": (width, 4 * part), f"{index}.down": (4 * part, width)}
    return _half(shape, f"{index}.norm1", first, core), _half(shape, f"{index}.norm2", second, (gelu,))


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
        activation_bytes=_normed_bytes(shape),
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

    >>> is_whole(Parameter("1.norm1.weight", (8,))), is_whole(Parameter("1.qkv.weight", (24, 8)))
    (True, False)
    """
    return ".norm" in parameter.name or ".position." in parameter.name


def _tied(shape: GptShape) -> Parameter:
    return Parameter(TIED_WEIGHT, (shape.vocabulary // shape.tensor, shape.width))


def _half(shape: GptShape, norm: str, products: dict[str, tuple[int, int]], between: tuple[Kernel, ...]) -> Layer:
    """Describe a half: norm, product, what lies between the products, product, residual sum."""
    stream = (shape.own_tokens, shape.width)
    added = (shape.own_tokens * shape.width,)
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
            *between,
            Kernel("add_forward", added),
        ),
        backward=(
            Kernel("backward_call", ()),
            *(Kernel("linear_backward", (shape.tokens, k, n)) for k, n in products.values()),
            Kernel("layer_norm_backward", stream),
            *(Kernel(kernel.name.replace("forward", "backward"), kernel.shape) for kernel in between),
            Kernel("add_backward", added),
        ),
        activation_bytes=_normed_bytes(shape) + ELEMENT_BYTES * (shape.tokens * (into + out_of) + _log_sums(between)),
    )


def _normed_bytes(shape: GptShape) -> int:
    """Give what a norm and the product after it keep: the norm's input, means and deviations; the product's input.

    Sequence-parallel ranks keep the product's input whole, as they have gathered it.
    """
    return ELEMENT_BYTES * (shape.own_tokens * (shape.width + 2) + shape.tokens * shape.width)


def _log_sums(between: tuple[Kernel, ...]) -> int:
    """Count the logarithms of the sums of exponentials that attention keeps, one for each token and head."""
    attention = next((kernel for kernel in between if kernel.name == "attention_forward"), None)
    return attention.shape[0] * attention.shape[1] if attention else 0


def _joined(halves: tuple[Layer, Layer], name: str) -> Layer:
    """Join two halves into one layer with one call of its backward pass."""
    one, other = halves
    norms = (one.parameters[0], other.parameters[0])
    return Layer(
        name=name,
        parameters=(*norms, *one.parameters[1:], *other.parameters[1:]),
        forward=one.forward + other.forward,
        backward=one.backward + other.backward[1:],
        activation_bytes=one.activation_bytes + other.activation_bytes,
    )
