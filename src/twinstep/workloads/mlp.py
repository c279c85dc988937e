"""A multi-layer perceptron: linear layers with ReLU between them, cross entropy over ten digits."""

from __future__ import annotations

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.model import Layer, Parameter

DIGITS_SAMPLES = 1797
DIGITS_PIXELS = 64
DIGITS_CLASSES = 10


def mlp_layers(hidden: tuple[int, ...], samples: int) -> tuple[Layer, ...]:
    """Describe the layers for `samples` images: 64 pixels, the hidden widths, 10 classes, the loss."""
    widths = (DIGITS_PIXELS, *hidden, DIGITS_CLASSES)
    linear = tuple(_linear(index, widths, samples) for index in range(len(widths) - 1))
    return (*linear, classification_loss(samples))


def classification_loss(samples: int) -> Layer:
    """Describe the cross entropy of ten classes."""
    logits = (samples, DIGITS_CLASSES)
    return Layer(
        name="loss",
        parameters=(),
        forward=(Kernel("cross_entropy_forward", logits),),
        backward=(Kernel("backward_call", ()), Kernel("cross_entropy_backward", logits)),
        activation_bytes=ELEMENT_BYTES * samples * DIGITS_CLASSES,
    )


def _linear(index: int, widths: tuple[int, ...], samples: int) -> Layer:
    inputs, outputs = widths[index], widths[index + 1]
    product = (samples, inputs, outputs)
    is_last = index == len(widths) - 2
    relu_forward = () if is_last else (Kernel("relu_forward", (samples * outputs,)),)
    relu_backward = () if is_last else (Kernel("relu_backward", (samples * outputs,)),)
    products = Kernel("linear_backward" if index else "linear_weight_backward", product)
    return Layer(
        name=f"linear{index}",
        parameters=(
            Parameter(f"{index}.linear.weight", (outputs, inputs)),
            Parameter(f"{index}.linear.bias", (outputs,)),
        ),
        forward=(Kernel("linear_forward", product), *relu_forward),
        backward=(Kernel("backward_call", ()), *relu_backward, products),
        activation_bytes=ELEMENT_BYTES * samples * inputs,
    )
