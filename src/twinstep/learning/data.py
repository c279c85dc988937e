"""Real data that comes with scikit-learn, as arrays; each set is loaded once a process."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.workloads import Classifier, Gpt, LinearRegression, Training

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


class DataSet(NamedTuple):
    """Samples and what is to be predicted of them."""

    inputs: Floats
    """(samples, features)."""
    targets: Floats | Labels
    """(samples, 1) numbers, or (samples,) classes."""


@cache
def diabetes(polynomial_degree: int) -> DataSet:
    """Load 442 patients: standardised polynomial features (442, f) and standardised progression (442, 1)."""
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    table = load_diabetes()
    expanded = PolynomialFeatures(polynomial_degree, include_bias=False).fit_transform(table.data)
    features = StandardScaler().fit_transform(expanded)
    targets = StandardScaler().fit_transform(table.target.reshape(-1, 1))
    return DataSet(features.astype(np.float32), targets.astype(np.float32))


@cache
def digits() -> DataSet:
    """Load 1797 handwritten digits: pixels from 0 to 1 (1797, 64) and classes (1797,)."""
    from sklearn.datasets import load_digits

    table = load_digits()
    return DataSet((table.data / 16).astype(np.float32), table.target.astype(np.int64))


def data_of(workload: Training) -> DataSet:
    """Load the data set of a workload. Raises TypeError for a text, which is not learnt from here."""
    if isinstance(workload, Gpt):
        raise TypeError("a GPT does not learn where compute is emulated")
    return diabetes(workload.polynomial_degree) if isinstance(workload, LinearRegression) else digits()


def labels_of(workload: Training) -> Labels:
    """Give the label of every row (samples,). Raises TypeError for a workload without labels."""
    if not isinstance(workload, Classifier):
        raise TypeError(f"{workload.kind} has no labels")
    return digits().targets.astype(np.int64)


def drawn(samples: int, seed: int, step: int, *rank: int) -> Labels:
    """Draw the order of samples in a step, the same on every rank unless it names one; a batch are the first."""
    return np.random.default_rng((seed, step, *rank)).permutation(samples)
