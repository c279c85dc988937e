"""Real data that comes with scikit-learn or with Python itself, as arrays; each set is loaded once a process."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import InputError
from twinstep.workloads import Classifier, Gpt, LinearRegression, SparseLogisticRegression, Training
from twinstep.workloads.sparse_logistic_regression import TEXT_LINES

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
CsrRows = Any
"""scipy.sparse.csr_array of float32; scipy has no types."""
TEXT_BYTES = 4 * 2**20


class DataSet(NamedTuple):
    """Samples and what is to be predicted of them."""

    inputs: Floats | CsrRows
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


def standard_library_text() -> bytearray:
    """Load the first 4 MiB of the Python standard library's own sources, in the order of their paths, as bytes (t,)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = bytearray()
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("[a-z]*/*.py")):
        if "site-packages" not in path.parts:
            text += path.read_bytes()
        if len(text) >= TEXT_BYTES:
            break
    return text[:TEXT_BYTES]


@cache
def source_lines(features: int) -> DataSet:
    """Load 20,000 lines of that text: trigrams in hashed buckets (20000, features), and whether the next is deeper.

    Lines are those that are not empty. Their indentation is left out of the features; rows have length 1. Raises
    InputError where Python has come without its sources.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import HashingVectorizer

    text = standard_library_text().decode("utf-8", errors="replace").expandtabs()
    lines = [line for line in text.split("\n") if line.strip()][: TEXT_LINES + 1]
    if len(lines) <= TEXT_LINES:
        problem = f"this Python's library has sources of {len(lines)} lines, and {TEXT_LINES + 1} are learnt from"
        raise InputError(problem, remedy="install Python with its sources", place="workload.kind")
    indents = np.array([len(line) - len(line.lstrip()) for line in lines])
    hashing = HashingVectorizer(
        analyzer="char", ngram_range=(3, 3), n_features=features, lowercase=False, dtype=np.float32
    )
    rows = csr_array(hashing.transform(f"^{line.strip()}$" for line in lines[:-1]))
    rows.eliminate_zeros()  # trigrams of one bucket have signs, and may cancel
    return DataSet(rows, (np.diff(indents) > 0).astype(np.int64))


def data_of(workload: Training) -> DataSet:
    """Load the data set of a workload. Raises TypeError for a text, which is not learnt from here."""
    if isinstance(workload, Gpt):
        raise TypeError("a GPT does not learn where compute is emulated")
    if isinstance(workload, SparseLogisticRegression):
        return source_lines(workload.features)
    return diabetes(workload.polynomial_degree) if isinstance(workload, LinearRegression) else digits()


def labels_of(workload: Training) -> Labels:
    """Give the label of every row (samples,). Raises TypeError for a workload without labels."""
    if not isinstance(workload, Classifier):
        raise TypeError(f"{workload.kind} has no labels")
    return digits().targets.astype(np.int64)


def drawn(samples: int, seed: int, step: int, *rank: int) -> Labels:
    """Draw the order of samples in a step, the same on every rank unless it names one; a batch are the first."""
    return np.random.default_rng((seed, step, *rank)).permutation(samples)
