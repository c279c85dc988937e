"""The options of each workload, as a scenario file gives them, and the model each one means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.strict_model import StrictModel
from twinstep.timeline import CollectiveKind
from twinstep.units import SizeBytes
from twinstep.workloads.gpt import gpt_layers
from twinstep.workloads.gpt_specification import Gpt
from twinstep.workloads.linear_regression import DIABETES_SAMPLES, feature_count, linear_regression_layers
from twinstep.workloads.logistic_regression import logistic_regression_layers
from twinstep.workloads.mlp import DIGITS_CLASSES, DIGITS_PIXELS, DIGITS_SAMPLES, mlp_layers
from twinstep.workloads.model import Layer, Model, Parameter
from twinstep.workloads.optimizer import Optimizer
from twinstep.workloads.sparse_logistic_regression import TEXT_LINES, sparse_logistic_regression_layers

_SIZE = Field(ge=1, le=65536)


class LinearRegression(StrictModel):
    """Least squares by full-batch gradient descent on scikit-learn's diabetes data (442 patients)."""

    kind: Literal["linear_regression"]
    polynomial_degree: Annotated[int, Field(ge=1, le=5)] = 1
    """The ten measurements are expanded to all their products up to this degree."""
    optimizer: Optimizer = Optimizer(kind="sgd", learning_rate=0.1)
    """How parameters are updated."""

    @property
    def samples(self) -> int:
        """Samples of a global batch: the whole data set."""
        return DIABETES_SAMPLES

    @property
    def features(self) -> int:
        """Inputs of the one layer."""
        return feature_count(self.polynomial_degree)

    @property
    def outputs(self) -> int:
        """Outputs of the one layer."""
        return 1


class LogisticRegression(StrictModel):
    """Multinomial logistic regression on scikit-learn's handwritten digits (1797 images of 8 x 8)."""

    kind: Literal["logistic_regression"]
    batch: Annotated[int, Field(ge=1, le=DIGITS_SAMPLES)]
    """Samples of a global batch, over all ranks."""
    optimizer: Optimizer = Optimizer(kind="sgd", learning_rate=0.1)
    """How parameters are updated."""

    @property
    def samples(self) -> int:
        """Samples of a global batch."""
        return self.batch

    @property
    def features(self) -> int:
        """Inputs of the one layer."""
        return DIGITS_PIXELS

    @property
    def outputs(self) -> int:
        """Outputs of the one layer."""
        return DIGITS_CLASSES


class Mlp(StrictModel):
    """A multi-layer perceptron with ReLU on scikit-learn's handwritten digits (1797 images of 8 x 8)."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Annotated[int, _SIZE], ...], Field(min_length=1, max_length=64, strict=False)]
    """Width of each hidden layer."""
    batch: Annotated[int, Field(ge=1, le=DIGITS_SAMPLES)]
    """Samples of a global batch, over all ranks."""
    optimizer: Optimizer = Optimizer(kind="sgd", learning_rate=0.1)
    """How parameters are updated."""

    @property
    def samples(self) -> int:
        """Samples of a global batch."""
        return self.batch


class SparseLogisticRegression(StrictModel):
    """Logistic regression on lines of the Python standard library's own sources: is the next one indented deeper?"""

    kind: Literal["sparse_logistic_regression"]
    batch: Annotated[int, Field(ge=1, le=TEXT_LINES)]
    """Samples of a global batch, over all ranks."""
    features: Annotated[int, Field(ge=2**8, le=2**22)] = 2**16
    """Buckets into which a line's trigrams of characters are hashed."""
    optimizer: Optimizer = Optimizer(kind="sgd", learning_rate=0.1)
    """How parameters are updated."""

    @property
    def samples(self) -> int:
        """Samples of a global batch."""
        return self.batch


class CollectiveBench(StrictModel):
    """One collective again and again, as nccl-tests does it."""

    kind: Literal["collective"]
    collective: CollectiveKind | Literal["send"]
    """Which one; `send` is a message from the first rank to the second."""
    size: SizeBytes
    """Bytes of a rank's whole buffer; for all_gather the output, for reduce_scatter and all_to_all the input."""
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often in a step, one after another."""
    barrier: bool = False
    """Whether ranks meet at a barrier before each, so that none of them begins early."""


Regression = LinearRegression | LogisticRegression
"""What is one linear layer, whose features can be shared out."""
Classifier = LogisticRegression | Mlp
"""What learns labels."""
Training = LinearRegression | Classifier | SparseLogisticRegression | Gpt
"""What trains a model."""
WorkloadSpec = Annotated[Training | CollectiveBench, Field(discriminator="kind")]


def data_rows(workload: Training) -> int:
    """Count the rows of a workload's data set that belong to workers. Raises TypeError for a text, which has none."""
    if isinstance(workload, Gpt | SparseLogisticRegression):
        raise TypeError("rows of a text belong to nobody")
    return DIABETES_SAMPLES if isinstance(workload, LinearRegression) else DIGITS_SAMPLES


class SparseRows(NamedTuple):
    """Some sparse rows."""

    samples: int
    nonzeros: int
    """Of all of them together."""
    touched: int
    """Parameters that have a gradient, the bias included."""


def describe_sparse(workload: SparseLogisticRegression, rows: SparseRows, gradients: int) -> Model:
    """Describe a workload as a rank computes it on some rows, where so many gradients are cleared before."""
    layers = sparse_logistic_regression_layers(workload.features, rows.samples, rows.nonzeros, gradients)
    load = (Kernel("gather_rows", (rows.nonzeros, 2)),)  # a value and its column
    return with_optimizer(layers, load, workload.optimizer)


def describe(workload: Training, samples: int) -> Model:
    """Describe a workload as a rank computes it that holds `samples` of each global batch.

    Raises TypeError for one whose work depends on which samples these are (`describe_sparse`).

    >>> describe(Mlp(kind="mlp", hidden=(32,), batch=64), samples=64).memory_bytes()["parameters"]
    9640
    """
    match workload:
        case LinearRegression():
            layers = linear_regression_layers(workload.polynomial_degree, samples)
            load: tuple[Kernel, ...] = ()
        case LogisticRegression():
            layers = logistic_regression_layers(samples)
            load = (Kernel("gather_rows", (samples, DIGITS_PIXELS)),)
        case Mlp():
            layers = mlp_layers(workload.hidden, samples)
            load = (Kernel("gather_rows", (samples, DIGITS_PIXELS)),)
        case SparseLogisticRegression():
            raise TypeError("sparse rows differ in what they cost")
        case Gpt():
            layers = gpt_layers(workload.shape(samples))
            load = (Kernel("gather_rows", (samples, 2 * workload.context)),)
    return with_optimizer(layers, load, workload.optimizer)


STATE_COPIES = {"sgd": 0, "momentum": 1, "adamw": 2}
"""How many numbers an optimizer keeps for each parameter."""


def with_optimizer(
    layers: tuple[Layer, ...],
    load: tuple[Kernel, ...],
    optimizer: Optimizer,
    ranks_of: Callable[[Parameter], int] = lambda parameter: 1,
) -> Model:
    """Complete a model: every parameter is updated once, whichever layers read it, by one of `ranks_of` it."""
    parameters = list(dict.fromkeys(parameter for layer in layers for parameter in layer.parameters))
    elements = sum(-(-parameter.elements // ranks_of(parameter)) for parameter in parameters)
    return Model(
        layers=layers,
        load=load,
        optimizer=(Kernel(optimizer.kind, (elements, len(parameters))), Kernel("zero", (elements,))),
        optimizer_state_bytes=STATE_COPIES[optimizer.kind] * ELEMENT_BYTES * elements,
    )
