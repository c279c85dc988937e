"""The memory that ranks are measured to hold: torch's own figures, beside the predicted ones."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.command_line import Ended, assert_refused
from tests.made_up import contents
from torch import Tensor, nn

from twinstep import workflow
from twinstep.errors import InputError
from twinstep.exec.memory import measure_memory
from twinstep.memory import check_memory, smallest_change
from twinstep.memory_use import MemoryUse, memory_errors
from twinstep.report.contents import Contents
from twinstep.report.html import render_html
from twinstep.report.summary import summary
from twinstep.report.terminal import show
from twinstep.scenario import Scenario, load_scenario

CPU = torch.device("cpu")
BESIDE_BYTES = 1_000_000
STATE_TOLERANCE, PEAK_TOLERANCE = 0.02, 0.10
ELEMENTS = 3000
COUNTER_BYTES = 4
"""AdamW counts its steps in a tensor a parameter."""


class Toy:
    """One parameter, and a step that needs a tensor of a known size before its gradient is there."""

    def __init__(self, *, keeps_gradients: bool) -> None:
        self.parameter = nn.Parameter(torch.ones(ELEMENTS))
        self.optimizer = torch.optim.AdamW([self.parameter], lr=0.1)
        self._keeps_gradients = keeps_gradients
        self.beside: Tensor | None = None

    def step(self) -> None:
        self.beside = torch.ones(BESIDE_BYTES // 4)
        self.beside = None
        self.parameter.grad = torch.ones(ELEMENTS) if self.parameter.grad is None else self.parameter.grad.fill_(1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)


@pytest.mark.parametrize("keeps_gradients", [False, True])
def test_what_is_held_is_counted_to_the_byte(keeps_gradients: bool) -> None:
    toy = Toy(keeps_gradients=keeps_gradients)
    toy.step()
    found = measure_memory(toy.step, [toy.parameter], toy.optimizer, CPU)
    whole = 4 * ELEMENTS
    assert (found.parameters, found.gradients, found.optimizer_state) == (whole, whole, 2 * whole + COUNTER_BYTES)
    assert found.peak == (4 if keeps_gradients else 3) * whole + COUNTER_BYTES + BESIDE_BYTES
    assert found.fragmentation is None


def test_steps_that_are_measured_change_no_parameter() -> None:
    toy = Toy(keeps_gradients=False)
    toy.step()
    before = toy.parameter.detach().clone()
    measure_memory(toy.step, [toy.parameter], toy.optimizer, CPU)
    assert torch.equal(toy.parameter, before)
    toy.step()
    assert not torch.equal(toy.parameter, before)


def test_errors_are_signed_fractions_of_what_was_measured() -> None:
    predicted = MemoryUse(parameters=110, gradients=90, optimizer_state=0, peak=300, fragmentation=7)
    measured = MemoryUse(parameters=100, gradients=100, optimizer_state=0, peak=300, fragmentation=None)
    errors = memory_errors(predicted, measured)
    assert errors == {
        "parameters": pytest.approx(0.1),
        "gradients": pytest.approx(-0.1),
        "optimizer_state": 0.0,
        "peak": 0.0,
        "fragmentation": None,
    }


GPT = ("workload.layers=2", "workload.width=128", "workload.context=64", "workload.batch=8", "run.steps=2",
       "run.warmup=2", "topology.file=one-host-2")  # fmt: skip
CASES = {
    "DistributedDataParallel": ("native", "none"),
    "ZeroRedundancyOptimizer": ("native", "optimizer"),
    "fully_shard, gathered once": ("native", "gradients"),
    "fully_shard": ("native", "parameters"),
    "rank programs": ("program", "none"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_hold_what_is_predicted(case: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    engine, sharding = CASES[case]
    settings = [
        part for key in (*GPT, f"run.engine={engine}", f"partition.sharding={sharding}") for part in ("--set", key)
    ]
    ended = run_cli("compare", "native-fsdp-2", *settings, "--out", tmp_path / "out", "--json")
    assert ended.code in (0, 1), ended.err
    facts = json.loads(ended.out)
    for rank in ("0", "1"):
        errors = facts["error"]["memory_by_rank"][rank]
        print(case, rank, errors)
        predicted, measured = (facts[side]["memory_by_rank"][rank] for side in ("predicted", "measured"))
        for part in ("parameters", "gradients"):
            assert predicted[part] == measured[part] > 0
        assert abs(errors["optimizer_state"]) <= STATE_TOLERANCE
        assert abs(errors["peak"]) <= PEAK_TOLERANCE
        assert predicted["fragmentation"] == 0
        assert measured["fragmentation"] is None
    if facts["by_programs"]:
        assert [*facts["by_programs"]["memory_by_rank"]] == ["0", "1"]


@pytest.mark.slow
def test_emulated_ranks_have_nothing_to_measure(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    settings = ("--set", "run.compute=emulated", "--set", "run.steps=3", "--out", tmp_path / "out")
    ended = run_cli("compare", "quickstart", *settings)
    assert ended.code in (0, 1), ended.err
    assert "No memory was measured: compute is emulated" in " ".join(ended.out.split())
    facts = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert facts["predicted"]["memory_by_rank"]["0"]["peak"] > 0
    assert facts["measured"]["memory_by_rank"] == {}
    assert facts["error"]["memory_by_rank"] == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_counts_what_its_allocator_holds() -> None:
    overrides = ["partition.data=1", "topology.device=cuda", "run.steps=2", "run.warmup=1"]
    found = workflow.measure(load_scenario("quickstart", overrides), None, lambda share: None).memory_by_rank[0]
    assert found.parameters == found.gradients > 0
    assert found.peak >= found.parameters + found.gradients + found.optimizer_state
    assert found.fragmentation is not None
    assert found.fragmentation >= 0


def fitting(memory: str, fragmentation: float, *overrides: str) -> Scenario:
    device = f"{{peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s, memory: {memory}, fragmentation: {fragmentation}}}"
    return load_scenario("fsdp-8", ("run.backend=local", f"topology.device={device}", *overrides))


def needed_bytes(scenario: Scenario) -> dict[str, int]:
    return workflow.predict(scenario, None).peak_memory_bytes


@pytest.mark.parametrize("fragmentation", [0.0, 0.1, 0.25])
def test_the_allowance_is_a_part_of_its_own_and_counts(fragmentation: float) -> None:
    without = needed_bytes(fitting("1024 GiB", 0.0))
    parts = needed_bytes(fitting("1024 GiB", fragmentation))
    assert without["fragmentation_allowance"] == 0
    assert sum(size for name, size in parts.items() if name != "total") == parts["total"]
    assert parts["total"] == pytest.approx(without["total"] / (1 - fragmentation), abs=1)
    assert {**parts, "fragmentation_allowance": 0, "total": 0} == {**without, "total": 0}
    check_memory(fitting(f"{parts['total']} B", fragmentation))
    with pytest.raises(InputError) as refused:
        check_memory(fitting(f"{parts['total'] - 1} B", fragmentation))
    assert ("fragmentation allowance" in str(refused.value)) == (fragmentation > 0)


def test_the_remedy_counts_the_allowance() -> None:
    scenario = fitting("1024 GiB", 0.25)
    whole = needed_bytes(scenario)["total"]
    smaller = fitting(f"{round(0.9 * whole)} B", 0.25)
    remedy = smallest_change(smaller.plan, smaller.topology)
    assert remedy is not None
    changes = [f"partition.{key}={value}" for key, value in remedy.changes.items()]
    assert needed_bytes(fitting("1024 GiB", 0.25, *changes))["total"] == remedy.peak_bytes


@pytest.mark.parametrize("fragmentation", ["1.0", "-0.1", "a lot"])
def test_an_impossible_fragmentation_is_refused(fragmentation: str, run_cli: Callable[..., Ended]) -> None:
    device = f"{{peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s, fragmentation: {fragmentation}}}"
    assert_refused(run_cli("check", "fsdp-8", "--set", f"topology.device={device}"), "", "fragmentation")


def test_what_does_not_fit_is_refused_before_a_folder_is_made(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    device = "{peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s, memory: 1 MiB}"
    assert_refused(run_cli("predict", "fsdp-8", "--set", f"topology.device={device}", "--out", tmp_path / "out"), "")
    assert not (tmp_path / "out").exists()


def test_check_prints_the_allowance(run_cli: Callable[..., Ended]) -> None:
    device = "{peak: 10 TFLOP/s, memory_bandwidth: 1 TB/s, fragmentation: 0.5}"
    ended = run_cli("check", "fsdp-8", "--set", f"topology.device={device}")
    lines = {" ".join(line.split()) for line in ended.out.splitlines()}
    (allowance,) = (line for line in lines if line.startswith("memory of rank 0, fragmentation"))
    assert "0 B" not in allowance


def measured_contents() -> Contents:
    """Make up a comparison in which rank 1 holds a tenth more than predicted, on GPUs."""
    shown = contents()
    assert shown.prediction
    assert shown.measurement
    predicted = MemoryUse(
        parameters=4 << 20, gradients=4 << 20, optimizer_state=8 << 20, peak=20 << 20, fragmentation=0
    )
    more = predicted._replace(peak=25 << 20, fragmentation=3 << 20)
    return replace(
        shown,
        prediction=replace(shown.prediction, memory_by_rank={0: predicted, 1: predicted}),
        measurement=replace(shown.measurement, memory_by_rank={0: predicted, 1: more}),
    )


def terminal_text(shown: Contents) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    show(shown, console)
    return console.export_text()


def test_the_terminal_has_the_fullest_rank_by_part_and_the_peaks_of_others() -> None:
    lines = [line.split() for line in terminal_text(measured_contents()).splitlines()]
    assert ["peak,", "rank", "1", "20.0", "MiB", "25.0", "MiB", "-20.0", "%"] in lines
    assert ["peak,", "rank", "0", "20.0", "MiB", "20.0", "MiB", "+0.0", "%"] in lines
    assert ["fragmentation,", "rank", "1", "0", "B", "3.00", "MiB", "-100.0", "%"] in lines
    assert ["gradients,", "rank", "1", "4.00", "MiB", "4.00", "MiB", "+0.0", "%"] in lines


def test_the_page_has_each_rank_and_its_errors() -> None:
    page = render_html(measured_contents())
    assert "Memory by rank" in page
    assert page.count("<div>-20.0 %</div>") == 1
    assert "25.0 MiB, 3.00 MiB reserved beyond" in page
    assert summary(measured_contents())["error"]["memory_by_rank"]["1"]["peak"] == pytest.approx(-0.2)


def test_what_was_not_measured_is_said_and_not_drawn() -> None:
    shown = contents()
    assert shown.measurement
    silent = replace(
        shown, measurement=replace(shown.measurement, no_memory="compute is emulated, so ranks hold no model")
    )
    assert "No memory was measured: compute is emulated" in " ".join(terminal_text(silent).split())
    page = render_html(silent)
    assert "none: compute is emulated" in page
    assert "Memory by rank" not in page
