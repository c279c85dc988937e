"""What n ranks learn is what one process learns: losses and parameters of a run against plain torch.

The reference is a training loop as anybody would write it: whole layers, global batches, one mean loss, one optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from twinstep.exec.data import batches
from twinstep.exec.measure import measure_in
from twinstep.exec.models import build_layers
from twinstep.plan import Plan
from twinstep.programs import fill_buckets
from twinstep.scenario import load_scenario
from twinstep.workloads import Gpt, LinearRegression, describe

pytestmark = pytest.mark.slow

LARGEST_DIFFERENCE = 1e-5
"""Of a parameter, or of the losses, as a fraction of its norm."""
MOMENTUM = {"sgd": 0.0, "momentum": 0.9}
ROUNDING = 1e-6
"""A parameter that is smaller than this part of all is a zero with rounding: the bias of a centred regression."""

WORKLOADS = {
    "linear_regression": """
  kind: linear_regression
  polynomial_degree: 2
  optimizer: {kind: sgd, learning_rate: 0.02}
""",
    "mlp": """
  kind: mlp
  hidden: [48, 32]
  batch: 64
  optimizer: {kind: momentum, learning_rate: 0.05}
""",
    "logistic_regression": """
  kind: logistic_regression
  batch: 64
  optimizer: {kind: sgd, learning_rate: 0.1}
""",
    "gpt": """
  kind: gpt
  layers: 2
  heads: 2
  width: 32
  context: 16
  batch: 8
  optimizer: {kind: adamw, learning_rate: 0.001}
""",
}
SCENARIO = """\
workload: {workload}
partition: {{data: {ranks}}}
sync: {{bucket: 8 KiB, overlap: {overlap}}}
topology: {{builder: one_host, devices: {ranks}, device: cpu}}
run: {{steps: 18, warmup: 2, seed: 3}}
"""


class Learnt(NamedTuple):
    losses: Tensor
    """Of all steps."""
    parameters: dict[str, Tensor]
    """After the last step."""


def train_in_ranks(plan: Plan, folder: Path) -> Learnt:
    measured = measure_in(folder, plan, None, lambda step: None)
    return Learnt(torch.tensor(measured.losses), torch.load(folder / "parameters.pt", weights_only=True))


def train_alone(plan: Plan) -> Learnt:
    """Train in this process, with nothing of twinstep but its layers and its data."""
    torch.set_num_threads(1)
    workload = plan.training
    data = batches(plan, range(workload.samples))
    model = torch.nn.Sequential(*build_layers(workload, plan.run.seed))
    loss_of = torch.nn.MSELoss() if isinstance(workload, LinearRegression) else torch.nn.CrossEntropyLoss()
    rate = workload.optimizer.learning_rate
    optimizer: torch.optim.Optimizer
    if workload.optimizer.kind == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM[workload.optimizer.kind])
    losses = []
    for step in range(plan.run.warmup + plan.run.steps):
        inputs, targets = data.batch(step)
        outputs = model(inputs)
        if isinstance(workload, Gpt):
            outputs, targets = outputs.flatten(0, 1), targets.flatten()
        loss = loss_of(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Learnt(torch.tensor(losses), parameters)


def assert_equal(found: Learnt, expected: Learnt) -> None:
    assert found.parameters.keys() == expected.parameters.keys()
    whole = sum(float(parameter.norm()) for parameter in expected.parameters.values())
    for name, parameter in expected.parameters.items():
        size = float(parameter.norm())
        scale = size if size > ROUNDING * whole else whole
        assert float((found.parameters[name] - parameter).norm()) <= LARGEST_DIFFERENCE * scale, name
    assert found.losses.shape == expected.losses.shape
    assert float((found.losses - expected.losses).norm()) <= LARGEST_DIFFERENCE * float(expected.losses.norm())


def plan_of(workload: str, ranks: int, folder: Path, *, overlap: bool = True) -> Plan:
    path = folder / "scenario.yaml"
    text = SCENARIO.format(workload=WORKLOADS[workload], ranks=ranks, overlap=str(overlap).lower())
    path.write_text(text)
    return load_scenario(str(path)).plan


@pytest.mark.parametrize(
    ("workload", "ranks"),
    [
        *((workload, ranks) for workload in WORKLOADS for ranks in (1, 2, 4)),
        ("linear_regression", 3),  # 442 samples: ranks of 148, 147 and 147
    ],
)
def test_ranks_learn_what_one_process_learns(workload: str, ranks: int, tmp_path: Path) -> None:
    plan = plan_of(workload, ranks, tmp_path)
    alone = train_alone(plan)
    assert alone.losses[-1] < alone.losses[0], "nothing is learnt"
    assert_equal(train_in_ranks(plan, tmp_path), alone)


def test_ranks_learn_the_same_without_overlap(tmp_path: Path) -> None:
    plan = plan_of("gpt", 2, tmp_path, overlap=False)
    assert_equal(train_in_ranks(plan, tmp_path), train_alone(plan))


def test_ten_node_regression_finds_what_one_process_finds(tmp_path: Path) -> None:
    plan = load_scenario("ten-node-regression").plan
    assert_equal(train_in_ranks(plan, tmp_path), train_alone(plan))


def test_head_of_the_gpt_is_tied_and_trained_from_both_ends(tmp_path: Path) -> None:
    plan = plan_of("gpt", 2, tmp_path)
    named = dict(build_layers(plan.training, plan.run.seed).named_parameters(remove_duplicate=False))
    tied = named["0.token.weight"]
    assert [name for name, parameter in named.items() if parameter is tied] == ["0.token.weight", "3.product.weight"]
    last = fill_buckets(describe(plan.training, 1).layers, plan.sync.bucket)[-1]
    assert (last.ready_after_layer, last.parameters[-1].name) == (0, "0.token.weight")
