"""Linear regression: one weight a feature and a bias, squared error, the whole data set in every step."""

from __future__ import annotations

from math import comb

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.workloads.model import Layer, Parameter

DIABETES_SAMPLES = 442
DIABETES_FEATURES = 10


def feature_count(polynomial_degree: int) -> int:
    """Count the monomials of degree 1 to `polynomial_degree` in ten variables.

    >>> feature_count(1), feature_count(3)
    (10, 285)
    """
    return comb(DIABETES_FEATURES + polynomial_degree, polynomial_degree) - 1


def linear_regression_layers(polynomial_degree: int, samples: int) -> tuple[Layer, ...]:
    """Describe the layers for `samples` rows; the features are made once, before the first step."""
    features = feature_count(polynomial_degree)
    product = (samples, features, 1)
    return (
        Layer(
            name="linear",
            parameters=(Parameter("0.weight", (1, features)), Parameter("0.bias", (1,))),
            forward=(Kernel("linear_forward", product),),
            backward=(Kernel("backward_call", ()), Kernel("linear_weight_backward", product)),
            activation_bytes=0,
        ),
        Layer(
            name="loss",
            parameters=(),
            forward=(Kernel("squared_error_forward", (samples,)),),
            backward=(Kernel("backward_call", ()), Kernel("squared_error_backward", (samples,))),
            activation_bytes=ELEMENT_BYTES * samples,
        ),
    )
