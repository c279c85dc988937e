"""Workloads: what is trained, described layer by layer without touching a tensor.

`model.py` is the description; `linear_regression.py`, `logistic_regression.py`, `mlp.py` and `gpt.py` each
make one from its options, `sparse_logistic_regression.py` from the rows of a batch, too. The executor binds real torch
modules to the same layers, in the same order (`twinstep.exec.models`). Of a GPT, `family.py` has the options that the
executor lacks, `experts.py` the mixture of experts.
"""

from twinstep.workloads.experts import (
    dispatch_bytes,
    expert_loads,
    expert_products,
    expert_router,
    expert_sum,
    expert_tokens,
    is_expert,
)
from twinstep.workloads.family import Family
from twinstep.workloads.gpt import (
    TIED_WEIGHT,
    VOCABULARY,
    gpt_attention,
    gpt_embedding,
    gpt_feed_forward,
    gpt_halves,
    gpt_head,
    gpt_layers,
    gpt_loss,
    is_head_norm,
    is_whole,
)
from twinstep.workloads.gpt_shape import GptShape
from twinstep.workloads.gpt_specification import Gpt
from twinstep.workloads.half import joined
from twinstep.workloads.model import Layer, Model, Parameter
from twinstep.workloads.optimizer import Optimizer
from twinstep.workloads.specification import (
    STATE_COPIES,
    Classifier,
    CollectiveBench,
    LinearRegression,
    LogisticRegression,
    Mlp,
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
    "STATE_COPIES",
    "TIED_WEIGHT",
    "VOCABULARY",
    "Classifier",
    "CollectiveBench",
    "Family",
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
    "dispatch_bytes",
    "expert_loads",
    "expert_products",
    "expert_router",
    "expert_sum",
    "expert_tokens",
    "gpt_attention",
    "gpt_embedding",
    "gpt_feed_forward",
    "gpt_halves",
    "gpt_head",
    "gpt_layers",
    "gpt_loss",
    "is_expert",
    "is_head_norm",
    "is_whole",
    "joined",
    "with_optimizer",
]
