"""Torch modules for the layers that `twinstep.workloads` describes: same order, same parameter names and shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from twinstep.workloads import Gpt, LinearRegression, LogisticRegression, Mlp, SparseLogisticRegression, Training
from twinstep.workloads.gpt import VOCABULARY
from twinstep.workloads.mlp import DIGITS_CLASSES, DIGITS_PIXELS


class LinearRelu(nn.Module):
    """A linear layer, with ReLU unless it is the last."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(m, inputs) -> (m, outputs)."""
        y = self.linear(x)
        return functional.relu(y) if self._relu else y


class Embedding(nn.Module):
    """Token plus position embedding."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.register_buffer("positions", torch.arange(context), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(samples, context) -> (samples, context, width)."""
        embedded: Tensor = self.token(tokens) + self.position(self.positions)
        return embedded


class Block(nn.Module):
    """A pre-norm transformer block without biases."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self._head_width = width // heads

    def forward(self, x: Tensor) -> Tensor:
        """(samples, context, width) -> the same shape."""
        x = x + self.project(causal_attention(self.qkv(self.norm1(x)), self._head_width))
        widened: Tensor = self.down(functional.gelu(self.up(self.norm2(x))))
        return x + widened


def causal_attention(qkv: Tensor, head_width: int) -> Tensor:
    """Attend to earlier tokens: (samples, context, 3 width) -> (samples, context, width).

    A head's query, key and value lie side by side, so that a part of the rows of the weight is whole heads.
    """
    samples, context, triple = qkv.shape
    split = qkv.view(samples, context, triple // 3 // head_width, 3, head_width).permute(3, 0, 2, 1, 4)
    mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], is_causal=True)
    return mixed.transpose(1, 2).reshape(samples, context, triple // 3)


class Head(nn.Module):
    """Final norm and a projection to the vocabulary that shares the token embedding's weight."""

    def __init__(self, width: int, token_weight: Tensor) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.product = nn.Linear(width, VOCABULARY, bias=False, device="meta")  # draws no numbers
        self.product.weight = token_weight

    def forward(self, x: Tensor) -> Tensor:
        """(samples, context, width) -> (samples, context, vocabulary)."""
        logits: Tensor = self.product(self.norm(x))
        return logits


def build_layers(workload: Training, seed: int) -> nn.ModuleList:
    """Make the trained layers, initialised from `seed`, equal on every rank."""
    torch.manual_seed(seed)
    match workload:
        case LinearRegression() | LogisticRegression():
            linear = nn.Linear(workload.features, workload.outputs)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            return nn.ModuleList([linear])
        case Mlp():
            widths = (DIGITS_PIXELS, *workload.hidden, DIGITS_CLASSES)
            last = len(widths) - 2
            return nn.ModuleList(LinearRelu(widths[i], widths[i + 1], relu=i < last) for i in range(last + 1))
        case Gpt():
            return _build_gpt(workload)
        case SparseLogisticRegression():
            raise TypeError("sparse rows have no executor with real compute")


def _build_gpt(workload: Gpt) -> nn.ModuleList:
    embedding = Embedding(workload.context, workload.width)
    blocks = [Block(workload.heads, workload.width) for _ in range(workload.layers)]
    layers = nn.ModuleList([embedding, *blocks, Head(workload.width, embedding.token.weight)])
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    return layers


def loss_sum(workload: Training, outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the loss summed over samples (tokens for a GPT): squared error or cross entropy."""
    if isinstance(workload, LinearRegression):
        return functional.mse_loss(outputs, targets, reduction="sum")
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def loss_terms(workload: Training) -> int:
    """Count the terms of the loss of a global batch: its samples, or a GPT's tokens."""
    return workload.batch * workload.context if isinstance(workload, Gpt) else workload.samples


def optimizer_of(workload: Training) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Give torch's optimizer of the workload's kind, and its options."""
    rate: dict[str, Any] = {"lr": workload.optimizer.learning_rate}
    match workload.optimizer.kind:
        case "sgd":
            return torch.optim.SGD, rate
        case "momentum":
            return torch.optim.SGD, rate | {"momentum": 0.9}
        case "adamw":
            return torch.optim.AdamW, rate


def make_optimizer(workload: Training, model: nn.Module) -> torch.optim.Optimizer:
    """Make torch's optimizer of the workload's kind."""
    kind, options = optimizer_of(workload)
    return kind(model.parameters(), **options)
