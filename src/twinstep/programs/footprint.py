"""Footprint: the bytes that a part of a model keeps for its backward pass, and needs beyond them while it is computed.

What torch's autograd keeps of each operation (`torch/csrc/autograd` saves it; `tools/autograd/derivatives.yaml` lists
it), in elements; a tensor that two operations keep is there once:

| operation | input | output | kept | in its backward pass, beside the gradient of its input |
|---|---|---|---|---|
| product (m, k, n) | m k | m n | m k, the input | the weight's gradient, k n |
| layer norm (m, w) | m w | m w | m w + 2 m: input, means, deviations | the weight's gradient, w |
| RMS norm (m, w) | m w | m w | m w + m: input, roots of means of squares | the weight's gradient, w |
| GELU (e) | e | e | e, the input | |
| gate times SiLU (e) | 2 e | e | 2 e, what it multiplies | |
| attention (q, s, h) | 3 q s h | q s h | 3 q s h + q s: queries, keys, values, log-sums | |
| cross entropy (m, c) | m c | | m c, log-probabilities | m c, the gradient of these |
| sum, ReLU, rotation (e) | e | e | nothing of its own: ReLU's output is what the next product keeps | |

Attention is the fused kernel, which keeps no matrix of scores; its output is what the next product keeps. A backward
pass goes from the last operation to the first. At each it holds what is still kept, the gradient of its output, that
of its input, and weights' gradients; what it kept is given up after it. The gradient of the residual stream waits
beside them until a half is over.

When it is wrong: kernels that are not in the table are taken to need nothing beyond what their layer keeps; temporary
storage inside of one kernel (tiles of attention) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.programs.parts import Kernels, Part, runs
from twinstep.programs.pieces import Piece
from twinstep.workloads import Layer


class Footprint(NamedTuple):
    """Bytes of one microbatch in one part."""

    kept: int
    """Held from the forward pass to the backward pass."""
    restored: int
    """Held once what was dropped has been computed again; as `kept` where nothing is."""
    for_weights: int
    """Held from the backward pass of inputs to that of weights, where the two are apart."""
    forward: int
    """Most that the forward pass needs beyond what it keeps."""
    backward: int
    """Most that the backward pass needs beyond `restored`, the gradients of weights that it makes included."""
    accumulating: int
    """The same where these are added to gradients that are there, one weight after another."""


class _Flow(NamedTuple):
    """Elements that an operation reads, gives, keeps, and needs for its weight and beside in its backward pass."""

    inputs: int
    outputs: int
    kept: int
    weight: int = 0
    scratch: int = 0


_FLOWS: dict[str, Callable[..., _Flow]] = {
    "linear": lambda m, k, n: _Flow(m * k, m * n, m * k, k * n),
    "layer_norm": lambda m, w: _Flow(m * w, m * w, m * w + 2 * m, w),
    "rms_norm": lambda m, w: _Flow(m * w, m * w, m * w + m, w),
    "gelu": lambda e: _Flow(e, e, e),
    "silu_mul": lambda e: _Flow(2 * e, e, 2 * e),
    "rotary": lambda e: _Flow(e, e, 0),
    "relu": lambda e: _Flow(e, e, 0),
    "add": lambda e: _Flow(e, e, 0),
    "attention": lambda q, s, h: _Flow(3 * q * s * h, q * s * h, 3 * q * s * h + q * s),
    "embedding": lambda t, v, w: _Flow(0, t * w, 0, v * w),
    "cross_entropy": lambda m, c: _Flow(m * c, 0, m * c, scratch=m * c),
    "squared_error": lambda m: _Flow(m, 0, m, scratch=m),
}
_PASSED_ON = ("add", "relu")
"""Operations whose inputs nobody keeps."""
_BUFFERS = {"all_reduce": 1, "all_to_all": 1, "shift": 2}


def footprint_of_layer(layer: Layer) -> Footprint:
    """Describe a layer that is computed without other ranks."""
    return _footprint(layer, layer.activation_bytes, 0, 0)


def footprint_of_part(part: Part) -> Footprint:
    """Describe a part, with the copies that its exchanges need."""
    received = [max((_received(piece) for piece in pieces), default=0) for pieces in (part.forward, part.backward)]
    return _footprint(part.layer, part.kept_bytes, *received)


def _received(piece: Piece) -> int:
    """Count the bytes of what comes in beside what goes out: a sum is made in a copy, a shift has two buffers."""
    return sum(_BUFFERS.get(exchange.kind, 0) * exchange.received_bytes for exchange in piece.exchanges)


def _footprint(layer: Layer, kept: int, received_forward: int, received_backward: int) -> Footprint:
    flows = [*_flows(layer.forward)]
    return Footprint(
        kept=kept,
        restored=layer.activation_bytes,
        for_weights=ELEMENT_BYTES * sum(map(_for_weights, flows)),
        forward=ELEMENT_BYTES * _forward(flows) + received_forward,
        backward=ELEMENT_BYTES * _backward(flows, accumulates=False) + received_backward,
        accumulating=ELEMENT_BYTES * _backward(flows, accumulates=True) + received_backward,
    )


def _flows(kernels: Kernels) -> Iterator[tuple[str, _Flow]]:
    """Give what each operation reads, gives and keeps, in the order in which they are computed."""
    for half in _halves(kernels):
        is_half = any("_norm_forward" in kernel.name for kernel in half) and half[-1].name == "add_forward"
        last: Kernel | None = None
        for kernel in (each for run in runs(half) for each in run) if is_half else half:
            name = kernel.name.removesuffix("_forward")
            if name in _FLOWS and not (name == "attention" and kernel == last):  # blocks of a ring are one operation
                yield name, _FLOWS[name](*kernel.shape)
            last = kernel


def _halves(kernels: Kernels) -> Iterator[Kernels]:
    """Cut kernels after each sum."""
    begin = 0
    for index, kernel in enumerate(kernels):
        if kernel.name == "add_forward" or index == len(kernels) - 1:
            yield kernels[begin : index + 1]
            begin = index + 1


def _for_weights(named: tuple[str, _Flow]) -> int:
    """Count the elements that the gradients of weights are made of: inputs of products, and gradients of outputs."""
    name, flow = named
    return flow.kept + flow.outputs if name == "linear" else flow.outputs if name == "embedding" else 0


def _forward(flows: Sequence[tuple[str, _Flow]]) -> int:
    """Count what the last operation gives, and what it reads if nobody keeps that."""
    if not flows:
        return 0
    name, last = flows[-1]
    return last.outputs + (flows[-2][1].outputs if name in _PASSED_ON and len(flows) > 1 else 0)


def _backward(flows: Sequence[tuple[str, _Flow]], *, accumulates: bool) -> int:
    """Count the most elements beyond those that the part keeps."""
    if not flows:
        return 0
    gradient = live = flows[-1][1].outputs
    peak, weights, residual = live, 0, 0
    for position, (name, flow) in reversed([*enumerate(flows)]):
        if name == "add":  # its gradient goes on to both, and is there once
            residual, gradient = gradient, 0
            continue
        gathered = flow.outputs if name == "linear" and (gradient or residual) < flow.outputs else 0
        live += gathered + flow.inputs + flow.scratch
        peak = max(peak, live + weights + flow.weight)
        weights += 0 if accumulates else flow.weight
        live -= gathered + gradient + flow.scratch + flow.kept
        gradient = flow.inputs
        begins = position == 0 or flows[position - 1][0] == "add"
        if begins and residual:  # both gradients of the residual stream become one
            live -= gradient
            gradient, residual = residual, 0
    return max(peak, live + weights)
