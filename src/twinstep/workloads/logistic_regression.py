"""Multinomial logistic regression: one linear layer from pixels to classes, softmax cross entropy over ten digits."""

from __future__ import annotations

from twinstep.kernels import Kernel
from twinstep.workloads.mlp import DIGITS_CLASSES, DIGITS_PIXELS, classification_loss
from twinstep.workloads.model import Layer, Parameter


def logistic_regression_layers(samples: int) -> tuple[Layer, ...]:
    """Describe the layers for `samples` images: 64 pixels, 10 classes, the loss."""
    product = (samples, DIGITS_PIXELS, DIGITS_CLASSES)
    linear = Layer(
        name="linear",
        parameters=(Parameter("0.weight", (DIGITS_CLASSES, DIGITS_PIXELS)), Parameter("0.bias", (DIGITS_CLASSES,))),
        forward=(Kernel("linear_forward", product),),
        backward=(Kernel("backward_call", ()), Kernel("linear_weight_backward", product)),
        activation_bytes=0,
    )
    return linear, classification_loss(samples)
