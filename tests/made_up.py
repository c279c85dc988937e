"""Timelines and reports made up for tests: data-parallel steps, buckets that overlap the backward pass."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from twinstep.communication import Communication, LinkUse, communication
from twinstep.compare import compare
from twinstep.report.contents import Assumption, Contents, Measurement, Prediction
from twinstep.timeline import Span, Timeline, Twins

LAYERS = 4
BUCKETS = 2
PLAN = """\
workload:
  kind: mlp
  widths: [256, 512, 512, 10]
  batch: 64
partition:
  data: 2
sync:
  buckets: 1 MiB
run: {steps: 20, warmup: 3, tolerance: 0.1}
"""
ASSUMPTIONS = (
    Assumption("link bandwidth", "10.0 GB/s", "data sheet", "each way"),
    Assumption("gloo per-message cost", "42.0 us", "calibrated", "this machine, 2 ranks"),
    Assumption("efficiency of matmul", "0.61", "measured"),
    Assumption("dispatch by the host", "0 s", "assumed", "no host model yet"),
    Assumption("bucket size", "1.00 MiB", "plan"),
)
LINKS = (
    LinkUse("host0", "switch0", size_bytes=3.1e9, utilisation=0.62, queueing_s=0.004),
    LinkUse("switch0", "host0", size_bytes=3.1e9, utilisation=0.62, queueing_s=0.0),
)
LOSSES = tuple(2.3 * 0.93**step for step in range(24))
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)><a href="javascript:alert(3)">c</a>%{x}'


def timeline(
    ranks: int, *, steps: int = 24, warmup_steps: int = 3, jitter: float = 0.0, slowdown: float = 1.0
) -> Timeline:
    """Make up a run. `jitter` spreads compute times, as a fraction; the last rank is slower by `slowdown`."""
    noise = random.Random(7)
    spans: list[Span] = []
    begin_s = 0.0
    for step in range(steps):
        done = [
            _until_sync(spans, rank, step, begin_s, _pace(noise, jitter, rank, ranks, slowdown))
            for rank in range(ranks)
        ]
        synced_s = max(done) + 0.9e-3 * (1 + jitter * noise.random())
        for rank in range(ranks):
            _after_sync(spans, rank, step, (begin_s, done[rank], synced_s), jitter)
        begin_s = synced_s + 0.5e-3
    spans.sort(key=lambda span: (span.rank, span.start_s))
    return Timeline(tuple(spans), ranks, warmup_steps)


def _pace(noise: random.Random, jitter: float, rank: int, ranks: int, slowdown: float) -> float:
    return (slowdown if rank == ranks - 1 else 1.0) * (1 + jitter * noise.uniform(-0.5, 1.0))


def _until_sync(spans: list[Span], rank: int, step: int, begin_s: float, pace: float) -> float:
    """Write load, forward and backward; give the end of the backward pass in seconds."""
    now_s = begin_s
    backward = [("backward", layer) for layer in reversed(range(LAYERS))]
    for name, layer in [("load", -1), *(("forward", layer) for layer in range(LAYERS)), *backward]:
        length_s = {"load": 0.3e-3, "forward": 0.5e-3, "backward": 1.0e-3}[name] * pace
        operation = name if layer < 0 else f"{name}[layer={layer}]"
        spans.append(Span(rank, step, "compute", operation, name, now_s, now_s + length_s))  # type: ignore[arg-type]
        now_s += length_s
    return now_s


def _after_sync(spans: list[Span], rank: int, step: int, times_s: tuple[float, float, float], jitter: float) -> None:
    begin_s, done_s, synced_s = times_s
    halfway_s = done_s - 2.0e-3
    for bucket, (issue_s, end_s) in enumerate([(halfway_s, done_s + 0.2e-3), (done_s, synced_s)]):
        operation = f"all_reduce[bucket={bucket}]"
        spans.append(Span(rank, step, "data", operation, "communication", issue_s, end_s, 1 << 20, "data"))
        wait_s = done_s + bucket * 0.2e-3
        spans.append(Span(rank, step, "compute", f"wait[{operation}]", "exposed_communication", wait_s, end_s))
    start_s = synced_s + jitter * 0.1e-3
    spans.append(Span(rank, step, "compute", "optimizer", "optimizer", start_s, start_s + 0.4e-3))
    spans.append(Span(rank, step, "step", f"step[{step}]", "step", begin_s, synced_s + 0.5e-3))


def contents(
    ranks: int = 2,
    *,
    predicted: bool = True,
    measured: bool = True,
    scenario: str = "two-hosts-mlp",
    question: str = "Do two hosts on 10G links train this network fast enough?",
    plan_yaml: str = PLAN,
    assumptions: tuple[Assumption, ...] = ASSUMPTIONS,
    losses: tuple[float, ...] = LOSSES,
    topology_figure: Any | None = None,
    lost_collective: bool = False,
    measured_size_bytes: int = 1 << 20,
    rename: str = "",
) -> Contents:
    """Make up a report. `rename` goes before every operation, lane and group; one collective can be lost."""
    expected = timeline(ranks)
    actual = timeline(ranks, jitter=0.15, slowdown=1.08)
    if rename:
        expected, actual = _renamed(expected, rename), _renamed(actual, rename)
    if measured_size_bytes != 1 << 20:
        resized = (span._replace(size_bytes=measured_size_bytes if span.group else 0) for span in actual.spans)
        actual = replace(actual, spans=tuple(resized))
    if lost_collective:
        kept = (span for span in actual.spans if span.operation != "all_reduce[bucket=1]")
        actual = replace(actual, spans=tuple(kept))
    group = rename + "data"
    memory = {"parameters": 4 << 20, "gradients": 4 << 20, "optimizer_state": 8 << 20, "activations": 3 << 20}
    memory["total"] = sum(memory.values())
    return Contents(
        scenario=scenario,
        question=question,
        ranks=ranks,
        tolerance=0.1,
        plan_yaml=plan_yaml,
        prediction=Prediction(expected, memory, 0.0123, 1234, communication(expected, {group: ranks}, LINKS), {})
        if predicted
        else None,
        measurement=Measurement(actual, losses, 0.02, communication(actual, {group: ranks})) if measured else None,
        comparison=compare(expected, actual, tolerance=0.1) if predicted and measured else None,
        assumptions=assumptions,
        topology_figure=topology_figure,
    )


def evil_contents() -> Contents:
    """Make up a report in which every text of a user is hostile."""
    return contents(
        scenario=EVIL,
        question=EVIL,
        plan_yaml=EVIL,
        assumptions=(Assumption(EVIL, EVIL, "plan", EVIL),),
        rename=EVIL,
    )


def folded_contents() -> Contents:
    """Make up a prediction of 132 ranks: 0 stands for 128, 130 for three, 131 for itself."""
    shown = contents(measured=False)
    assert shown.prediction
    lived = timeline(3)
    folds = (Twins(0, tuple(range(128))), Twins(130, (128, 129, 130)), Twins(131, (131,)))
    spans = tuple(span._replace(rank=folds[span.rank].representative) for span in lived.spans)
    folded = Timeline(spans, ranks=132, warmup_steps=lived.warmup_steps, folds=folds)
    found = communication(folded, {"data": 132}, LINKS)
    return replace(shown, ranks=132, prediction=replace(shown.prediction, timeline=folded, communication=found))


def many_links(count: int) -> Contents:
    """Make up a prediction with links of which each uses 1 % more than the one before it."""
    shown = contents(measured=False)
    assert shown.prediction
    links = tuple(LinkUse(f"host{i}", "switch0", 1e9, 0.01 * (i + 1), 0.0) for i in range(count))
    found = replace(shown.prediction.communication, links=links)
    return replace(shown, prediction=replace(shown.prediction, communication=found))


def silent(shown: Contents) -> Contents:
    """Take the communication away, as where there is one rank."""
    none = Communication(exposed_s=0.0, hidden_s=0.0, collectives=(), links=())
    return replace(
        shown,
        prediction=shown.prediction and replace(shown.prediction, communication=none),
        measurement=shown.measurement and replace(shown.measurement, communication=none),
    )


def _renamed(made_up: Timeline, prefix: str) -> Timeline:
    """Put a prefix before the operations, the groups and the communication lanes."""
    spans = (
        span._replace(
            operation=prefix + span.operation,
            group=span.group and prefix + span.group,
            lane=prefix + span.lane if span.group else span.lane,
        )
        for span in made_up.spans
    )
    return replace(made_up, spans=tuple(spans))
