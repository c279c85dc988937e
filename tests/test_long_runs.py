"""Long runs: what a worker's asynchronous step may cost, and that statistics over columns are those over spans."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import simpy

from twinstep.meeting_table import Exchange, meetings
from twinstep.overlap import Intervals, overlap_s
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.sim import Simulation, simulate
from twinstep.spans import Kind, Span, SpanTable
from twinstep.topologies import load

WORKERS = 6


def asynchronous(steps: int) -> Simulation:
    device = {"peak": "1 TFLOP/s", "memory_bandwidth": "1 TB/s", "overhead": "5 us"}
    link = {"bandwidth": "10 Gb/s", "latency": "5 us"}
    plan = Plan.model_validate(
        {
            "workload": {"kind": "linear_regression", "polynomial_degree": 2, "optimizer": {"kind": "sgd"}},
            "partition": {"data": WORKERS},
            "sync": {"method": "parameter_server", "mode": "asynchronous"},
            "communication": {"library": "ideal"},
            "topology": {"builder": "star", "hosts": WORKERS + 1, "device": device, "link": link},
            "run": {"compute": "emulated", "steps": steps, "warmup": 0},
        }
    )
    topology = load(plan.topology, folder=None)  # type: ignore[arg-type]
    return simulate(plan, lower(plan), topology, None)


def test_a_worker_step_costs_few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has a delay, an end and a completion; a worker and a server each wait for their device."""
    scheduled = 0
    schedule = simpy.Environment.schedule

    def counted(*arguments: object, **options: object) -> None:
        nonlocal scheduled
        scheduled += 1
        schedule(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(simpy.Environment, "schedule", counted)
    counts = {}
    for steps in (10, 110):
        before = scheduled
        simulation = asynchronous(steps)
        counts[steps] = np.array([scheduled - before, simulation.rate_changes, simulation.effects])
    events, rate_changes, effects = (counts[110] - counts[10]) / (100 * WORKERS)
    assert events <= 2 * 3 + 3, "two messages and two devices, and at most one wait for an arrival"
    assert rate_changes <= 2.2
    assert effects <= 17 + 2 / WORKERS, "the server marks a step where each worker has taken one"


def made_up_spans() -> list[Span]:
    generator = random.Random(7)
    kinds = [Kind("compute", "forward", "forward"), Kind("compute", "wait[x]", "exposed_communication")]
    kinds += [Kind("lane", f"{side} a[hop=0>1]", "communication", 8, "g") for side in ("send", "recv")]
    spans = []
    for rank in range(2):
        for step in range(40):
            for lane, operation, phase, size_bytes, group in generator.choices(kinds, k=6):
                start_s = step + generator.random()
                end_s = start_s + generator.random() / 2
                spans.append(Span(rank, step, lane, operation, phase, start_s, end_s, size_bytes, group))
    return sorted(spans, key=lambda span: (span.rank, span.start_s))


def test_a_table_is_the_sequence_of_its_spans() -> None:
    spans = made_up_spans()
    table = SpanTable.of(spans)
    assert list(table) == spans
    assert table == tuple(spans)
    assert table[3:9] == spans[3:9]
    assert (table[0], table[-1]) == (spans[0], spans[-1])
    assert table != SpanTable.of(spans[1:])
    assert list(SpanTable.of([])) == []
    with pytest.raises(IndexError):
        table[len(spans)]


def test_receives_meet_the_sends_of_their_turn() -> None:
    spans, first_step = made_up_spans(), 3
    sent = [span for span in spans if span.operation.startswith("send")]
    received = [span for span in spans if span.operation.startswith("recv")]
    by_step: dict[int, list[Span]] = defaultdict(list)
    for span in sent:
        by_step[span.step].append(span)
    for turn, span in enumerate(received):
        by_step[sent[turn].step if turn < len(sent) else span.step].append(span)
    expected = {
        step: max(span.end_s for span in met) - max(span.start_s for span in met)
        for step, met in by_step.items()
        if step >= first_step
    }
    found = meetings(SpanTable.of(spans), first_step)
    assert dict(zip(found.step.tolist(), found.time_s.tolist(), strict=True)) == expected
    assert {found.exchanges[each] for each in found.exchange.tolist()} == {Exchange("send a[hop=0>1]", "g", 8)}


def covered_s(start_s: float, end_s: float, others: list[tuple[float, float]]) -> float:
    """Cut an interval at all ends of the others, and add up the pieces whose middle lies in one of them."""
    cuts = sorted({start_s, end_s, *(t for other in others for t in other if start_s < t < end_s)})
    pieces = pairwise(cuts)
    return sum(b - a for a, b in pieces if any(low <= (a + b) / 2 <= high for low, high in others))


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_what_pieces_add_up_to(seed: int) -> None:
    generator = random.Random(seed)

    def drawn() -> list[tuple[int, float, float]]:
        starts = [(generator.randrange(3), generator.randrange(30) / 4) for _ in range(generator.randrange(12))]
        return [(group, start_s, start_s + generator.randrange(12) / 4) for group, start_s in starts]

    def columns(rows: list[tuple[int, float, float]]) -> Intervals:
        group, start_s, end_s = (np.array([row[at] for row in rows], float) for at in range(3))
        return Intervals(group.astype(int), start_s, end_s)

    mine, others = drawn(), drawn()
    expected = [
        sum(covered_s(a, b, [other[1:] for other in others if other[0] == group]) for g, a, b in mine if g == group)
        for group in range(3)
    ]
    assert overlap_s(columns(mine), columns(others), 3).tolist() == expected
