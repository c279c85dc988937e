"""Logistic regression on sparse rows: one weight a feature and a bias, the cross entropy of two classes.

A sample is a line of source text, its features are how often each trigram of characters occurs in it, hashed into some
buckets. So a row has about as many non-zeros as the line has characters, of a number of features that may be as large
as one likes. Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

from __future__ import annotations

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.model import Layer, Parameter

TEXT_LINES = 20_000
"""Lines of the data set."""


def sparse_logistic_regression_layers(features: int, samples: int, nonzeros: int, gradients: int) -> tuple[Layer, ...]:
    """Describe the layers for `samples` rows that have `nonzeros` together; so many `gradients` are cleared before.

    >>> linear, loss = sparse_logistic_regression_layers(features=1000, samples=2, nonzeros=50, gradients=40)
    >>> linear.forward[0].work_flops, linear.backward[1].bytes_moved
    (100, 968)
    """
    two_classes = (samples, 2)
    linear = Layer(
        name="linear",
        parameters=(Parameter("0.weight", (1, features)), Parameter("0.bias", (1,))),
        forward=(Kernel("sparse_linear_forward", (samples, nonzeros)),),
        backward=(Kernel("backward_call", ()), Kernel("sparse_linear_backward", (samples, nonzeros, gradients))),
        activation_bytes=0,
    )
    loss = Layer(
        name="loss",
        parameters=(),
        forward=(Kernel("cross_entropy_forward", two_classes),),
        backward=(Kernel("backward_call", ()), Kernel("cross_entropy_backward", two_classes)),
        activation_bytes=ELEMENT_BYTES * samples,
    )
    return linear, loss
