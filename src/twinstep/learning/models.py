"""Models: losses and gradients of what learns, on flat float32 parameters.

The parameters lie in the order of `Model.parameters`. Linear regression is linear layers without a hidden one and the
squared error; the multi-layer perceptron has ReLU between its layers and the cross entropy of ten classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from twinstep.learning.data import DataSet, Floats
from twinstep.workloads import LinearRegression, Mlp
from twinstep.workloads.linear_regression import feature_count
from twinstep.workloads.mlp import DIGITS_CLASSES, DIGITS_PIXELS


class Layers:
    """Linear layers of some widths, with ReLU between them."""

    def __init__(self, widths: Sequence[int], *, classifies: bool) -> None:
        self._shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
        self._classifies = classifies
        self.elements = sum(outputs * (inputs + 1) for outputs, inputs in self._shapes)

    def initial(self, seed: int) -> Floats:
        """Draw parameters uniformly within 1/sqrt(inputs) of zero; a single layer begins with zeros."""
        if len(self._shapes) == 1:
            return np.zeros(self.elements, np.float32)
        generator = np.random.default_rng(seed)
        parts = [generator.uniform(-1, 1, outputs * (inputs + 1)) / np.sqrt(inputs) for outputs, inputs in self._shapes]
        return np.concatenate(parts).astype(np.float32)

    def gradient(self, parameters: Floats, samples: DataSet) -> tuple[float, Floats]:
        """Give the loss summed over the samples, and its gradient (elements,)."""
        matrices = self._matrices(parameters)
        values = [samples.inputs]
        for index, (weight, bias) in enumerate(matrices):
            values.append(values[-1] @ weight.T + bias)
            if index < len(matrices) - 1:
                np.maximum(values[-1], 0, out=values[-1])
        loss, slope = self._loss(values[-1], samples)
        found: list[Floats] = []
        for index in reversed(range(len(matrices))):
            found[:0] = [(slope.T @ values[index]).ravel(), slope.sum(axis=0)]
            slope = (slope @ matrices[index][0]) * (values[index] > 0)
        return loss, np.concatenate(found)

    def _matrices(self, parameters: Floats) -> list[tuple[Floats, Floats]]:
        """Give views of each layer's weight (outputs, inputs) and bias (outputs,)."""
        found, start = [], 0
        for outputs, inputs in self._shapes:
            weight_end = start + outputs * inputs
            weight = parameters[start:weight_end].reshape(outputs, inputs)
            found.append((weight, parameters[weight_end : weight_end + outputs]))
            start = weight_end + outputs
        return found

    def _loss(self, outputs: Floats, samples: DataSet) -> tuple[float, Floats]:
        """Give the loss summed over the samples, and its gradient with respect to the outputs."""
        if not self._classifies:
            difference = outputs - samples.targets
            return float(np.square(difference, dtype=np.float64).sum()), 2 * difference
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=1, keepdims=True)
        rows = np.arange(len(outputs))
        loss = float((np.log(sums[:, 0]) - shifted[rows, samples.targets]).sum(dtype=np.float64))
        slope = exponentials / sums
        slope[rows, samples.targets] -= 1
        return loss, slope


def layers_of(workload: LinearRegression | Mlp) -> Layers:
    """Give the model of a workload."""
    if isinstance(workload, LinearRegression):
        return Layers((feature_count(workload.polynomial_degree), 1), classifies=False)
    return Layers((DIGITS_PIXELS, *workload.hidden, DIGITS_CLASSES), classifies=True)
