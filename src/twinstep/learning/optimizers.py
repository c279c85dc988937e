"""Optimizers: torch's rules for SGD, momentum 0.9 and AdamW, on flat parameters."""

from __future__ import annotations

import numpy as np

from twinstep.learning.data import Floats
from twinstep.workloads import Optimizer

_MOMENTUM = 0.9
_BETAS, _EPSILON, _DECAY = (0.9, 0.999), 1e-8, 0.01


class Updates:
    """An optimizer with its state for some parameters."""

    def __init__(self, optimizer: Optimizer, elements: int) -> None:
        self._kind = optimizer.kind
        self._rate = np.float32(optimizer.learning_rate)
        self._first = np.zeros(elements, np.float32)
        self._second = np.zeros(elements if self._kind == "adamw" else 0, np.float32)
        self._count = 0

    @np.errstate(over="ignore", invalid="ignore")
    def apply(self, parameters: Floats, gradient: Floats) -> None:
        """Update parameters in place."""
        self._count += 1
        if self._kind == "adamw":
            self._adamw(parameters, gradient)
            return
        if self._kind == "momentum":
            self._first *= np.float32(_MOMENTUM)
            self._first += gradient
            gradient = self._first
        parameters -= self._rate * gradient

    def _adamw(self, parameters: Floats, gradient: Floats) -> None:
        first, second = _BETAS
        self._first += np.float32(1 - first) * (gradient - self._first)
        self._second += np.float32(1 - second) * (np.square(gradient) - self._second)
        unbiased_first = self._first / np.float32(1 - first**self._count)
        unbiased_second = self._second / np.float32(1 - second**self._count)
        parameters *= 1 - self._rate * np.float32(_DECAY)
        parameters -= self._rate * unbiased_first / (np.sqrt(unbiased_second) + np.float32(_EPSILON))
