"""What learns where compute is emulated: gradients and updates are torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twinstep.exec.models import build_layers, loss_sum, make_optimizer
from twinstep.learning.data import DataSet, diabetes, digits
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.workloads import LinearRegression, Mlp, Optimizer

WORKLOADS = [
    (LinearRegression(kind="linear_regression", polynomial_degree=2), diabetes(2)),
    (Mlp(kind="mlp", hidden=(16, 8), batch=64), digits()),
]


@pytest.mark.parametrize(("workload", "data"), WORKLOADS)
def test_loss_and_gradient_are_those_of_torch(workload: LinearRegression | Mlp, data: DataSet) -> None:
    samples = DataSet(data.inputs[:50], data.targets[:50])
    layers = build_layers(workload, seed=3)
    values = torch.from_numpy(samples.inputs)
    for layer in layers:
        values = layer(values)
    expected = loss_sum(workload, values, torch.from_numpy(samples.targets))
    expected.backward()  # type: ignore[no-untyped-call]
    flat = np.concatenate([parameter.detach().numpy().ravel() for parameter in layers.parameters()])
    loss, gradient = layers_of(workload).gradient(flat, samples)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
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
