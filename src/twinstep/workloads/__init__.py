"""Workloads: what is trained, described layer by layer without touching a tensor.

`model.py` is the description; `linear_regression.py`, `logistic_regression.py`, `mlp.py` and `gpt.py` each
make one from its options, `sparse_logistic_regression.py` from the rows of a batch, too. The executor binds real torch
modules to the same layers, in the same order (`twinstep.exec.models`).
"""

from twinstep.workloads.gpt import (
    TIED_WEIGHT,
    VOCABULARY,
    GptShape,
    gpt_embedding,
    gpt_halves,
    gpt_head,
    gpt_loss,
    is_whole,
)
from twinstep.workloads.model import Layer, Model, Parameter
from twinstep.workloads.specification import (
    Classifier,
    CollectiveBench,
    Gpt,
    LinearRegression,
    LogisticRegression,
    Mlp,
    Optimizer,
    Regression,
    SparseLogisticRegression,
    SparseRows,
    Training,
    WorkloadSpec,
    data_rows,
    describe,
    describe_sparse,
    with_optimizer,
)

__all__ = [
    "TIED_WEIGHT",
    "VOCABULARY",
    "Classifier",
    "CollectiveBench",
    "Gpt",
    "GptShape",
    "Layer",
    "LinearRegression",
    "LogisticRegression",
    "Mlp",
    "Model",
    "Optimizer",
    "Parameter",
    "Regression",
    "SparseLogisticRegression",
    "SparseRows",
    "Training",
    "WorkloadSpec",
    "data_rows",
    "describe",
    "describe_sparse",
    "gpt_embedding",
    "gpt_halves",
    "gpt_head",
    "gpt_loss",
    "is_whole",
    "with_optimizer",
]
