"""Half: a norm, products, what lies between them, and the residual sum; a block of a GPT has two of these.

Norms and gates are computed in one pass each, as fused kernels do: an RMS norm keeps its input and output for the
backward pass, a gate what it multiplies and the product. Torch without compilation keeps one tensor more for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.gpt_shape import GptShape
from twinstep.workloads.model import Layer, Parameter


class Product(NamedTuple):
    """A matrix product of a layer; its bias is added on the way, and costs nothing of its own."""

    name: str
    inputs: int
    outputs: int
    biased: bool = False

    @property
    def parameters(self) -> Iterator[Parameter]:
        """Give the weight and the bias."""
        yield Parameter(f"{self.name}.weight", (self.outputs, self.inputs))
        if self.biased:
            yield Parameter(f"{self.name}.bias", (self.outputs,))


class Between(NamedTuple):
    """What lies between the products of a half."""

    parameters: tuple[Parameter, ...]
    kernels: tuple[Kernel, ...]
    """Of the forward pass; the backward pass has one of its own for each."""
    kept: int = 0
    """Elements a token that the backward pass needs, beyond inputs and outputs of products."""


def half(shape: GptShape, norm: str, products: Sequence[Product], between: Between) -> Layer:
    """Describe a half; the last product leads back to the residual stream."""
    added = Kernel("add_forward", (shape.own_tokens * shape.width,))
    normed = norm_kernel(shape, shape.own_tokens, shape.width)
    outputs = sum(product.outputs for product in products[:-1])
    kept = outputs + products[-1].inputs + between.kept
    return Layer(
        name=norm,
        parameters=(
            *norm_parameters(shape, norm),
            *(parameter for product in products for parameter in product.parameters),
            *between.parameters,
        ),
        forward=(*linear("forward", shape.tokens, products), normed, *between.kernels, added),
        backward=(
            Kernel("backward_call", ()),
            *linear("backward", shape.tokens, products),
            *(backward_of(kernel) for kernel in (normed, *between.kernels, added)),
        ),
        activation_bytes=normed_bytes(shape) + ELEMENT_BYTES * (shape.tokens * kept + _log_sums(between.kernels)),
    )


def normed_bytes(shape: GptShape) -> int:
    """Give what a norm and the product after it keep: the norm's input, its statistics, and the product's input.

    Sequence-parallel ranks keep the product's input whole, as they have gathered it.
    """
    statistics = 2 if shape.family.norm == "layer" else 1  # means and deviations, or roots of means of squares
    return ELEMENT_BYTES * (shape.own_tokens * (shape.width + statistics) + shape.tokens * shape.width)


def _log_sums(kernels: Sequence[Kernel]) -> int:
    """Count the logarithms of the sums of exponentials that attention keeps, one for each token and head."""
    attention = next((kernel for kernel in kernels if kernel.name == "attention_forward"), None)
    return attention.shape[0] * attention.shape[1] if attention else 0


def linear(direction: str, rows: int, products: Sequence[Product]) -> list[Kernel]:
    """List the kernels of products of so many rows, forward or backward."""
    return [Kernel(f"linear_{direction}", (rows, each.inputs, each.outputs)) for each in products]


def norm_parameters(shape: GptShape, name: str) -> tuple[Parameter, ...]:
    """List a norm's parameters."""
    kinds = ("weight", "bias") if shape.family.biases == "all" else ("weight",)
    return tuple(Parameter(f"{name}.{kind}", (shape.width,)) for kind in kinds)


def norm_kernel(shape: GptShape, rows: int, width: int) -> Kernel:
    """Give the forward pass of a norm of the family."""
    return Kernel(f"{shape.family.norm}_norm_forward", (rows, width))


def activation(shape: GptShape, rows: int, inner: int) -> Kernel:
    """Give what lies between the products of a feed-forward with that inner width: GELU, or SiLU of gate times up."""
    return Kernel("silu_mul_forward" if shape.family.gated else "gelu_forward", (rows * inner,))


def backward_of(kernel: Kernel) -> Kernel:
    """Give the backward pass of a kernel whose backward pass has the same shape."""
    return Kernel(kernel.name.replace("forward", "backward"), kernel.shape)


def feed_forward(shape: GptShape, name: str, inner: int) -> tuple[Product, ...]:
    """List the products of a feed-forward with that inner width: gate, if there is one, up and down."""
    biased = shape.family.biases == "all"
    names = ("gate", "up") if shape.family.gated else ("up",)
    widening = (Product(f"{name}.{each}", shape.width, inner, biased) for each in names)
    return (*widening, Product(f"{name}.down", inner, shape.width, biased))


def joined(layers: Sequence[Layer], name: str) -> Layer:
    """Join layers into one with one call of its backward pass."""
    first, *others = layers
    return Layer(
        name=name,
        parameters=tuple(parameter for layer in layers for parameter in layer.parameters),
        forward=tuple(kernel for layer in layers for kernel in layer.forward),
        backward=(*first.backward, *(kernel for layer in others for kernel in layer.backward[1:])),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
    )
