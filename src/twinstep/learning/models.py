"""Models: losses and gradients of what learns, on flat float32 parameters.

The parameters lie in the order of `Model.parameters`. The two regressions are one linear layer, with the squared error
or the cross entropy of ten classes; the multi-layer perceptron has more of them, with ReLU between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from twinstep.learning.data import DataSet, Floats, Labels
from twinstep.workloads import Classifier, LinearRegression, Mlp, SparseLogisticRegression
from twinstep.workloads.mlp import DIGITS_CLASSES, DIGITS_PIXELS

_quietly = np.errstate(over="ignore", invalid="ignore")
"""Training that diverges shows in its loss, which is infinite or no number."""
Losses = Callable[[Floats, Floats | Labels], tuple[NDArray[np.floating[Any]], Floats]]
"""Gives, of outputs and targets, each sample's loss (samples,), and the gradient of their sum by the outputs."""


class Layers:
    """Linear layers of some widths, with ReLU between them."""

    def __init__(self, widths: Sequence[int], losses: Losses) -> None:
        self._shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
        self._losses = losses
        self.elements = sum(outputs * (inputs + 1) for outputs, inputs in self._shapes)

    def initial(self, seed: int) -> Floats:
        """Draw parameters uniformly within 1/sqrt(inputs) of zero; a single layer begins with zeros."""
        if len(self._shapes) == 1:
            return np.zeros(self.elements, np.float32)
        generator = np.random.default_rng(seed)
        parts = [generator.uniform(-1, 1, outputs * (inputs + 1)) / np.sqrt(inputs) for outputs, inputs in self._shapes]
        return np.concatenate(parts).astype(np.float32)

    @_quietly
    def loss(self, parameters: Floats, samples: DataSet) -> float:
        """Give the mean loss of the samples."""
        outputs = self._values(self._matrices(parameters), samples.inputs)[-1]
        return float(self._losses(outputs, samples.targets)[0].mean(dtype=np.float64))

    @_quietly
    def gradient(self, parameters: Floats, samples: DataSet, weights: Floats | None = None) -> tuple[float, Floats]:
        """Give the loss summed over the samples, each times its weight (samples,), and its gradient (elements,)."""
        matrices = self._matrices(parameters)
        values = self._values(matrices, samples.inputs)
        losses, slope = self._losses(values[-1], samples.targets)
        if weights is not None:
            losses, slope = losses * weights, slope * weights[:, np.newaxis]
        found: list[Floats] = []
        for index in reversed(range(len(matrices))):
            found[:0] = [(slope.T @ values[index]).ravel(), slope.sum(axis=0)]
            slope = (slope @ matrices[index][0]) * (values[index] > 0)
        return float(losses.sum(dtype=np.float64)), np.concatenate(found)

    def _values(self, matrices: Sequence[tuple[Floats, Floats]], inputs: Floats) -> list[Floats]:
        """Give the inputs of every layer, and the outputs of the last."""
        values = [inputs]
        for index, (weight, bias) in enumerate(matrices):
            values.append(values[-1] @ weight.T + bias)
            if index < len(matrices) - 1:
                np.maximum(values[-1], 0, out=values[-1])
        return values

    def _matrices(self, parameters: Floats) -> list[tuple[Floats, Floats]]:
        """Give views of each layer's weight (outputs, inputs) and bias (outputs,)."""
        found, start = [], 0
        for outputs, inputs in self._shapes:
            weight_end = start + outputs * inputs
            weight = parameters[start:weight_end].reshape(outputs, inputs)
            found.append((weight, parameters[weight_end : weight_end + outputs]))
            start = weight_end + outputs
        return found


class SparseLogistic:
    """One linear layer on sparse rows, and the cross entropy of two classes."""

    def __init__(self, features: int) -> None:
        self.elements = features + 1

    def initial(self, seed: int) -> Floats:
        """Begin with zeros, whatever the seed."""
        del seed
        return np.zeros(self.elements, np.float32)

    def loss(self, parameters: Floats, samples: DataSet) -> float:
        """Give the mean loss of the samples."""
        return self.gradient(parameters, samples)[0] / len(samples.targets)

    def gradient(self, parameters: Floats, samples: DataSet, weights: Floats | None = None) -> tuple[float, Floats]:
        """Give the loss summed over the samples, each times its weight (samples,), and its gradient.

        There may be any number of columns; `parameters` and gradient have one element more, the bias.
        """
        from scipy.special import expit

        outputs = samples.inputs @ parameters[:-1] + parameters[-1]
        targets = samples.targets.astype(np.float32)
        losses, slope = np.logaddexp(np.float32(0), outputs) - targets * outputs, expit(outputs) - targets
        if weights is not None:
            losses, slope = losses * weights, slope * weights
        gradient = np.append(samples.inputs.T @ slope, slope.sum())
        return float(losses.sum(dtype=np.float64)), gradient.astype(np.float32)


def squared_errors(outputs: Floats, targets: Floats | Labels) -> tuple[NDArray[np.float64], Floats]:
    """Give the loss of each sample (samples,), and the gradient of their sum with respect to the outputs."""
    difference = outputs - targets
    return np.square(difference, dtype=np.float64).ravel(), 2 * difference


def cross_entropies(outputs: Floats, targets: Floats | Labels) -> tuple[Floats, Floats]:
    """Give the loss of each sample (samples,) after a softmax of the outputs, and the gradient of their sum."""
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(outputs))
    slope = exponentials / sums
    slope[rows, targets] -= 1
    return np.log(sums[:, 0]) - shifted[rows, targets], slope


@overload
def layers_of(workload: SparseLogisticRegression) -> SparseLogistic: ...
@overload
def layers_of(workload: LinearRegression | Classifier) -> Layers: ...
def layers_of(workload: LinearRegression | Classifier | SparseLogisticRegression) -> Layers | SparseLogistic:
    """Give the model of a workload."""
    if isinstance(workload, SparseLogisticRegression):
        return SparseLogistic(workload.features)
    if isinstance(workload, Mlp):
        return Layers((DIGITS_PIXELS, *workload.hidden, DIGITS_CLASSES), losses_of(workload))
    return Layers((workload.features, workload.outputs), losses_of(workload))


def losses_of(workload: LinearRegression | Classifier) -> Losses:
    """Give the loss of a workload."""
    return squared_errors if isinstance(workload, LinearRegression) else cross_entropies
