"""What torch's wrappers cost beyond kernels: calls that block a core, copies, DTensor's own time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.small_plans import RATES

from twinstep.costs import device_costs
from twinstep.effects import Collective, Compute
from twinstep.kernels import Kernel
from twinstep.plan import Plan
from twinstep.profile import CollectiveTable, KernelCurve, Profile
from twinstep.programs import first_steps, lower
from twinstep.programs.stage import stage_parts
from twinstep.sim import simulate
from twinstep.timeline import Timeline
from twinstep.topologies import load

GPT = {"kind": "gpt", "layers": 2, "heads": 2, "width": 64, "context": 32, "batch": 8}
TIMES_S = {"all_gather": 0.003, "reduce_scatter": 0.007, "send": 0.002, "all_reduce": 0.005}


def plan_of(device: Any = "cpu", **changes: Any) -> Plan:
    topology = {"builder": "one_host", "devices": 2, "device": device}
    data = {"workload": GPT, "topology": topology, "run": {"engine": "native", "steps": 2, "warmup": 2}}
    return Plan.model_validate(data | changes)


def table(time_s: float) -> CollectiveTable:
    """Make a table in which everything takes as long, alone or not."""
    row = ((time_s, time_s),)
    return CollectiveTable(
        ranks=(2,),
        sizes_bytes=(1024, 2**24),
        elapsed_s=row,
        shared_sizes_bytes=(1024, 2**24),
        paired_s=row,
        crowded_s=row,
    )


@pytest.fixture
def known(profile: Profile) -> Profile:
    """Give a profile that knows what each kind takes on loopback."""
    tables = {kind: table(time_s) for kind, time_s in TIMES_S.items()}
    return profile.model_copy(update={"collectives": {"gloo": tables}})


def predicted(plan: Plan, profile: Profile) -> Timeline:
    topology = load(plan.topology, folder=None)  # type: ignore[arg-type]
    return simulate(plan, lower(plan), topology, profile, fold=False).timeline


def of_step(timeline: Timeline, phase: str, rank: int = 0) -> float:
    return sum(s.end_s - s.start_s for s in timeline.spans if (s.phase, s.rank, s.step) == (phase, rank, 3))


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "send"])
def test_on_one_host_each_kind_takes_what_was_measured_of_it(kind: str, known: Profile) -> None:
    bench = {"kind": "collective", "collective": kind, "size": "1 MiB"}
    timeline = predicted(plan_of(workload=bench, run={"steps": 2, "warmup": 1, "compute": "emulated"}), known)
    times = [s.end_s - s.start_s for s in timeline.spans if s.phase == "communication"]
    assert times == pytest.approx([TIMES_S[kind]] * len(times), rel=1e-6)


@pytest.mark.parametrize("sharding", ["gradients", "parameters"])
def test_what_fully_shard_sends_blocks_a_core(sharding: str, known: Profile) -> None:
    """Two equal ranks never wait for one another, so a step waits for all of its collectives in full."""
    plan = plan_of(partition={"data": 2, "sharding": sharding})
    kinds = Counter(s.operation.partition("[")[0] for s in predicted(plan, known).spans if (s.rank, s.step) == (0, 3))
    gathers = 3 if sharding == "gradients" else 3 + 2  # the root's unit is kept
    assert (kinds["all_gather"], kinds["reduce_scatter"]) == (gathers, 3)
    whole_s = gathers * TIMES_S["all_gather"] + 3 * TIMES_S["reduce_scatter"]
    assert of_step(predicted(plan, known), "exposed_communication") == pytest.approx(whole_s, rel=1e-6)


def test_what_fully_shard_sends_goes_on_beside_an_accelerator(known: Profile) -> None:
    slow = RATES | {"peak": "1 GFLOP/s"}
    plan = plan_of(slow, partition={"data": 2, "sharding": "parameters"}, communication={"library": "gloo"})
    timeline = predicted(plan, known)
    assert of_step(timeline, "exposed_communication") < 0.9 * of_step(timeline, "communication")


def test_a_rank_that_is_blocked_records_each_wait_once(known: Profile) -> None:
    timeline = predicted(plan_of(partition={"data": 2, "sharding": "parameters"}), known)
    keys = Counter((span.rank, span.step, span.operation) for span in timeline.spans)
    assert max(keys.values()) == 1


def test_fully_shard_copies_what_it_sends() -> None:
    """A shard into each gather's buffer, whole units out of it, and whole gradients into each scatter's."""
    plan = plan_of(partition={"data": 2, "sharding": "parameters"})
    effects = first_steps(lower(plan).program(0))
    moved = Counter[str]()
    for effect in effects:
        if isinstance(effect, Collective):
            moved[effect.kind] += effect.size_bytes
        elif isinstance(effect, Compute) and effect.phase in ("encode", "decode"):
            moved[effect.phase] += sum(4 * kernel.shape[0] for kernel in effect.kernels)
    assert moved["decode"] == moved["all_gather"]
    assert moved["encode"] == moved["all_gather"] // 2 + moved["reduce_scatter"]


@pytest.mark.parametrize("engine", ["program", "native"])
def test_only_torchs_wrappers_add_anything(engine: str) -> None:
    run = {"engine": engine, "compute": "emulated" if engine == "program" else "real", "warmup": 2}
    for partition in ({"tensor": 2}, {"data": 2, "sharding": "parameters"}):
        effects = first_steps(lower(plan_of(partition=partition, run=run)).program(0))
        names = {k.name for effect in effects if isinstance(effect, Compute) for k in effect.kernels}
        added = {name for name in names if name.startswith("dtensor_") or name == "copy"}
        assert bool(added) == (engine == "native")


def test_a_dtensors_time_is_the_measured_one_of_each_module(profile: Profile) -> None:
    curves = profile.devices["cpu"]
    measured = KernelCurve(grid=((1, 2),), idle_s=(3e-4, 5e-4), busy_s=(3e-4, 5e-4))
    kernels = {**curves.kernels, "dtensor_column_forward": measured}
    known = profile.model_copy(update={"devices": {"cpu": curves.model_copy(update={"kernels": kernels})}})
    costs = device_costs("cpu", known, busy_cores=2)
    times_s = [costs.kernel_s(Kernel("dtensor_column_forward", (number,))) for number in (1, 2)]
    assert times_s == pytest.approx([3e-4, 5e-4])


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    """Count operations on DTensors in real layers and in what calibrate times, in a process with a fake group."""
    command = [sys.executable, "-m", "tests.dtensor_counts"]
    ended = subprocess.run(
        command, timeout=120, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("shares_tokens", [False, True])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_programs_issue_as_many_operations_on_dtensors_as_torch(
    shares_tokens: bool, direction: str, counted: dict[str, int]
) -> None:
    """The modules that are charged to each layer have, timed alone, as many as the layer's pass."""
    partition = {"tensor": 2, "sequence_parallel": shares_tokens}
    embedding, attention, feed_forward, head, loss = stage_parts(
        plan_of(workload=GPT | {"layers": 1}, partition=partition), 0
    )
    layers = {"embedding": (embedding,), "block": (attention, feed_forward), "ending": (head, loss)}
    for name, parts in layers.items():
        pieces = [piece for part in parts for piece in getattr(part, direction)]
        kernels = [k for piece in pieces for k in piece.kernels if k.name.startswith("dtensor_")]
        charged = sum(counted[f"{kernel.name} {kernel.shape}"] for kernel in kernels)
        assert charged == counted[f"{name} {direction} {shares_tokens}"], name
