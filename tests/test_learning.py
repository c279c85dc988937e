"""What learns where compute is emulated: gradients and updates are torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinstep.exec.models import build_layers, loss_sum, make_optimizer
from twinstep.learning.data import DataSet, diabetes, digits
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.workloads import LinearRegression, LogisticRegression, Mlp, Optimizer

WORKLOADS = [
    (LinearRegression(kind="linear_regression", polynomial_degree=2), diabetes(2)),
    (Mlp(kind="mlp", hidden=(16, 8), batch=64), digits()),
    (LogisticRegression(kind="logistic_regression", batch=64), digits()),
]


@pytest.mark.parametrize(("workload", "data"), WORKLOADS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_loss_and_gradient_are_those_of_torch(
    workload: LinearRegression | LogisticRegression | Mlp, data: DataSet, is_weighted: bool
) -> None:
    samples = DataSet(data.inputs[:50], data.targets[:50])
    weights = np.linspace(0.1, 2, 50, dtype=np.float32) if is_weighted else None
    layers = build_layers(workload, seed=3)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    values = torch.from_numpy(samples.inputs)
    for layer in layers:
        values = layer(values)
    targets = torch.from_numpy(samples.targets)
    each = [loss_sum(workload, values[i : i + 1], targets[i : i + 1]) for i in range(50)]
    expected = torch.stack(each) @ torch.from_numpy(np.ones(50, np.float32) if weights is None else weights)
    expected.backward()  # type: ignore[no-untyped-call]
    flat = np.concatenate([parameter.detach().numpy().ravel() for parameter in layers.parameters()])
    loss, gradient = layers_of(workload).gradient(flat, samples, weights)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    if weights is None:
        assert layers_of(workload).loss(flat, samples) == pytest.approx(expected.item() / 50, rel=1e-5)
    slopes = np.concatenate([parameter.grad.numpy().ravel() for parameter in layers.parameters()])  # type: ignore[union-attr]
    assert gradient == pytest.approx(slopes, rel=1e-4, abs=1e-5 * float(np.abs(slopes).max()))


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
def test_updates_are_those_of_torch(kind: str) -> None:
    optimizer = Optimizer(kind=kind, learning_rate=0.05)  # type: ignore[arg-type]
    workload = WORKLOADS[0][0].model_copy(update={"optimizer": optimizer})
    layers = build_layers(workload, seed=0)
    theirs = make_optimizer(workload, layers)
    flat = np.concatenate([parameter.detach().numpy().ravel() for parameter in layers.parameters()])
    ours = Updates(optimizer, len(flat))
    generator = np.random.default_rng(1)
    for _ in range(5):
        gradient = generator.standard_normal(len(flat)).astype(np.float32)
        ours.apply(flat, gradient)
        start = 0
        for parameter in layers.parameters():
            parameter.grad = torch.from_numpy(gradient[start : start + parameter.numel()].copy()).view_as(parameter)
            start += parameter.numel()
        theirs.step()
    expected = np.concatenate([parameter.detach().numpy().ravel() for parameter in layers.parameters()])
    assert flat == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_initial_parameters_follow_from_the_seed() -> None:
    model = layers_of(WORKLOADS[1][0])
    assert np.array_equal(model.initial(5), model.initial(5))
    assert not np.array_equal(model.initial(5), model.initial(6))
