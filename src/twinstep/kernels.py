"""Kernels: the units of compute that a device profile knows the cost of.

A kernel is a name and a shape. Its `work_flops` and `bytes_moved` are what the operation must do at the least, in
single precision: each input read once, each output written once, multiply and add counted apart. They make the
roofline; what a device really needs on top is measured (`twinstep.profile`).

Legend: m rows, k inputs, n outputs of a matrix product; e elements; t tokens; v vocabulary; w width; s sequence
length; h head dimension; q sequences times heads; c classes or experts; p parameters; j tensors; r rank of factors;
z non-zero inputs of sparse rows; u 1 where ranks have the whole residual stream, 2 where they share its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

ELEMENT_BYTES = 4
"""All tensors are float32."""


class _Law(NamedTuple):
    axes: tuple[str, ...]
    flops: Callable[..., float]
    elements: Callable[..., float]


_LAWS: dict[str, _Law] = {
    "linear_forward": _Law(("m", "k", "n"), lambda m, k, n: 2 * m * k * n, lambda m, k, n: m * k + k * n + m * n),
    "linear_backward": _Law(
        ("m", "k", "n"), lambda m, k, n: 4 * m * k * n, lambda m, k, n: 2 * (m * k + k * n + m * n) + k * n
    ),
    "linear_weight_backward": _Law(
        ("m", "k", "n"), lambda m, k, n: 2 * m * k * n, lambda m, k, n: m * k + 3 * k * n + m * n
    ),
    "relu_forward": _Law(("e",), lambda e: e, lambda e: 2 * e),
    "relu_backward": _Law(("e",), lambda e: e, lambda e: 3 * e),
    "gelu_forward": _Law(("e",), lambda e: 20 * e, lambda e: 2 * e),
    "gelu_backward": _Law(("e",), lambda e: 40 * e, lambda e: 3 * e),
    "add_forward": _Law(("e",), lambda e: e, lambda e: 3 * e),
    "add_backward": _Law(("e",), lambda e: e, lambda e: 3 * e),
    "layer_norm_forward": _Law(("m", "w"), lambda m, w: 8 * m * w, lambda m, w: 2 * m * w),
    "layer_norm_backward": _Law(("m", "w"), lambda m, w: 16 * m * w, lambda m, w: 4 * m * w),
    "attention_forward": _Law(("q", "s", "h"), lambda q, s, h: 2 * q * s * s * h, lambda q, s, h: 4 * q * s * h),
    "attention_backward": _Law(("q", "s", "h"), lambda q, s, h: 5 * q * s * s * h, lambda q, s, h: 8 * q * s * h),
    "embedding_forward": _Law(("t", "v", "w"), lambda t, v, w: 0, lambda t, v, w: 2 * t * w),
    "embedding_backward": _Law(("t", "v", "w"), lambda t, v, w: t * w + v * w, lambda t, v, w: 2 * t * w + 4 * v * w),
    "cross_entropy_forward": _Law(("m", "c"), lambda m, c: 5 * m * c, lambda m, c: 3 * m * c),
    "cross_entropy_backward": _Law(("m", "c"), lambda m, c: 3 * m * c, lambda m, c: 2 * m * c),
    "squared_error_forward": _Law(("m",), lambda m: 3 * m, lambda m: 2 * m),
    "squared_error_backward": _Law(("m",), lambda m: 2 * m, lambda m: 3 * m),
    "backward_call": _Law((), lambda: 0, lambda: 0),
    "gather_rows": _Law(("m", "w"), lambda m, w: 0, lambda m, w: 2 * m * w),
    "fp16_encode": _Law(("e",), lambda e: e, lambda e: 1.5 * e),
    "fp16_decode": _Law(("e",), lambda e: e, lambda e: 1.5 * e),
    "bf16_encode": _Law(("e",), lambda e: e, lambda e: 1.5 * e),
    "bf16_decode": _Law(("e",), lambda e: e, lambda e: 1.5 * e),
    "int8_range": _Law(("e",), lambda e: 2 * e, lambda e: e),
    "int8_encode": _Law(("e",), lambda e: 3 * e, lambda e: 1.25 * e),
    "int8_decode": _Law(("e",), lambda e: 3 * e, lambda e: 2.25 * e),
    "top_k_encode": _Law(("e", "k"), lambda e, k: e, lambda e, k: e + 3 * k),
    "top_k_decode": _Law(("e", "k"), lambda e, k: k, lambda e, k: 4 * k),
    "random_k_encode": _Law(("e", "k"), lambda e, k: k, lambda e, k: 3 * k),
    "random_k_decode": _Law(("e", "k"), lambda e, k: 0, lambda e, k: 3 * k),
    "power_sgd_project": _Law(("m", "k", "r"), lambda m, k, r: 2 * m * k * r, lambda m, k, r: m * k + k * r + m * r),
    "power_sgd_expand": _Law(("m", "k", "r"), lambda m, k, r: 2 * m * k * r, lambda m, k, r: m * k + k * r + m * r),
    "orthogonalize": _Law(("m", "r"), lambda m, r: 2 * m * r * r, lambda m, r: 2 * m * r),
    "residual_add": _Law(("e",), lambda e: e, lambda e: 3 * e),
    "residual_copy": _Law(("e",), lambda e: 0, lambda e: 2 * e),
    "zero": _Law(("p",), lambda p: 0, lambda p: p),
    "copy": _Law(("p",), lambda p: 0, lambda p: 2 * p),
    "sgd": _Law(("p", "j"), lambda p, j: 2 * p, lambda p, j: 3 * p),
    "momentum": _Law(("p", "j"), lambda p, j: 4 * p, lambda p, j: 5 * p),
    "adamw": _Law(("p", "j"), lambda p, j: 14 * p, lambda p, j: 7 * p),
}
_LAWS |= {
    # What torch's DTensor adds to a module under a style, however small it is; u says how the residual stream lies.
    f"dtensor_{style}_{direction}": _Law(("u",), lambda u: 0, lambda u: 0)
    for style in ("column", "row", "norm", "embedding")
    for direction in ("forward", "backward")
}
_LAWS |= {f"dtensor_loss_{direction}": _Law((), lambda: 0, lambda: 0) for direction in ("forward", "backward")}
_LAWS |= {f"dtensor_{name}": _LAWS[name] for name in ("sgd", "momentum", "adamw")}
KERNEL_NAMES = tuple(_LAWS)
"""Every kernel that a workload, the compression of its gradients or torch's wrappers may really compute; the others
are for emulated compute alone."""

_LAWS |= {
    # The half of a product's backward pass that makes the gradients of inputs.
    "linear_input_backward": _Law(
        ("m", "k", "n"), lambda m, k, n: 2 * m * k * n, lambda m, k, n: m * k + k * n + m * n
    ),
    # A non-zero is a value and its column; each takes a weight, which lies anywhere.
    "sparse_linear_forward": _Law(("m", "z"), lambda m, z: 2 * z, lambda m, z: 3 * z + m),
    # The p gradients are cleared, and each non-zero reads and writes one.
    "sparse_linear_backward": _Law(("m", "z", "p"), lambda m, z, p: 2 * z, lambda m, z, p: 4 * z + m + p),
    # x r weight, where r is one over the root mean square of a row; backward r and its product with x are summed, too.
    "rms_norm_forward": _Law(("m", "w"), lambda m, w: 4 * m * w, lambda m, w: 2 * m * w),
    "rms_norm_backward": _Law(("m", "w"), lambda m, w: 9 * m * w, lambda m, w: 3 * m * w),
    # gate / (1 + exp(-gate)) times up, in one pass; the backward pass computes the sigmoid again.
    "silu_mul_forward": _Law(("e",), lambda e: 6 * e, lambda e: 3 * e),
    "silu_mul_backward": _Law(("e",), lambda e: 12 * e, lambda e: 5 * e),
    # Each element times a cosine, plus its partner times a sine; backward the other way round.
    "rotary_forward": _Law(("e",), lambda e: 3 * e, lambda e: 2 * e),
    "rotary_backward": _Law(("e",), lambda e: 3 * e, lambda e: 2 * e),
    # Softmax over c experts, of which k are chosen, each with its weight and its index.
    "top_k_gate_forward": _Law(("m", "c", "k"), lambda m, c, k: (5 + k) * m * c, lambda m, c, k: 2 * m * c + 2 * m * k),
    "top_k_gate_backward": _Law(("m", "c", "k"), lambda m, c, k: 4 * m * c, lambda m, c, k: 2 * m * c + 2 * m * k),
    # n rows, each times its weight, are added to m rows of zeros; backward each row and each weight has a gradient.
    "weighted_sum_forward": _Law(("m", "n", "w"), lambda m, n, w: 2 * n * w, lambda m, n, w: n * w + m * w + n),
    "weighted_sum_backward": _Law(
        ("m", "n", "w"), lambda m, n, w: 3 * n * w, lambda m, n, w: 2 * n * w + m * w + 2 * n
    ),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation on a device, e.g. `Kernel("linear_forward", (64, 256, 10))`."""

    name: str
    shape: tuple[int, ...]
    """One positive size an axis, in the order of `axes`."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Name the axes of the shape (see the module's legend)."""
        return _LAWS[self.name].axes

    @property
    def work_flops(self) -> float:
        """Count floating-point operations.

        >>> Kernel("linear_forward", (64, 256, 10)).work_flops
        327680
        """
        return _LAWS[self.name].flops(*self.shape)

    @property
    def bytes_moved(self) -> float:
        """Count bytes read and written at the least.

        >>> Kernel("relu_forward", (1000,)).bytes_moved
        8000
        """
        return ELEMENT_BYTES * _LAWS[self.name].elements(*self.shape)
