"""Exposed and hidden communication, bandwidths and the bytes of links."""

from __future__ import annotations

import pytest
from tests.small_plans import BYTES_PER_S, FREE, HOP_S, bench, make, predict, star

from twinstep.communication import CollectiveUse, communication
from twinstep.programs import DataParallel, lower
from twinstep.shaping import payload_share
from twinstep.timeline import Span, Timeline


def span(lane: str, phase: str, start_s: float, end_s: float, operation: str = "") -> Span:
    return Span(0, 0, lane, operation or phase, phase, start_s, end_s)  # type: ignore[arg-type]


def test_hidden_is_what_overlaps_with_computing_counted_once() -> None:
    """Two collectives from 1 to 4 and 3 to 6; computing 0 to 2 and 3.5 to 5, waiting 5 to 6: 1 s and 1.5 s hidden."""
    spans = [
        span("data", "communication", 1, 4),
        span("data", "communication", 3, 6),
        span("compute", "forward", 0, 2),
        span("compute", "backward", 3.5, 5),
        span("compute", "exposed_communication", 5, 6),
    ]
    step = Span(0, 0, "step", "step", "step", 0, 6)
    hidden_s = [
        communication(Timeline((step, *some), ranks=1, warmup_steps=0), {"": 1}).hidden_s for some in (spans, spans[2:])
    ]
    assert hidden_s == [2.5, 0.0]


def test_without_overlap_everything_is_exposed() -> None:
    plan, topology = make(star(4), partition={"data": 4}, sync={"overlap": False})
    found = communication(predict(plan, topology).timeline, {"data": 4})
    assert found.hidden_s == 0.0
    assert found.exposed_s == pytest.approx(sum(use.per_step * use.time_s for use in found.collectives))


def test_folded_and_unfolded_communication_are_the_same() -> None:
    gpt = {"kind": "gpt", "layers": 4, "heads": 4, "width": 64, "context": 8, "batch": 32}
    partition = {"data": 2, "tensor": 4, "pipeline": 2, "microbatches": 4}
    plan, topology = make(star(8, 2), workload=gpt, partition=partition)
    sizes = {kind: groups.size for kind, groups in lower(plan).groups.items()}
    folded, plain = (communication(predict(plan, topology, fold=fold).timeline, sizes) for fold in (True, False))
    assert folded.exposed_s == pytest.approx(plain.exposed_s)
    assert folded.hidden_s == pytest.approx(plain.hidden_s)
    for one, other in zip(folded.collectives, plain.collectives, strict=True):
        assert one[:5] == other[:5]
        assert one.time_s == pytest.approx(other.time_s)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [("all_reduce", 1.75), ("all_gather", 0.875), ("all_to_all", 0.875), ("gather", 0.875), ("broadcast", 1.0)],
)
def test_bus_bandwidth_uses_the_factors_of_nccl_tests(kind: str, factor: float) -> None:
    use = CollectiveUse(kind, "data", ranks=8, size_bytes=1000, per_step=1, time_s=0.5)
    assert use.algorithm_bandwidth_bytes_per_s == 2000
    assert use.bus_bandwidth_bytes_per_s == 2000 * factor


def test_bus_bandwidth_of_a_large_ring_is_that_of_the_link() -> None:
    plan, topology = bench(star(5), 5, "all_reduce", 10**9, algorithm="ring")
    (use,) = communication(predict(plan, topology).timeline, {"all": 5}).collectives
    assert use.bus_bandwidth_bytes_per_s == pytest.approx(BYTES_PER_S, rel=1e-3)
    assert use.bus_bandwidth_bytes_per_s is not None
    assert use.bus_bandwidth_bytes_per_s < BYTES_PER_S
    assert use.time_s == pytest.approx(8 * (HOP_S + 1e9 / 5 / BYTES_PER_S))


def test_links_carry_what_the_ring_says_with_headers() -> None:
    plan, topology = make(star(4), partition={"data": 4})
    payload = sum(bucket.size_bytes for bucket in DataParallel(plan).buckets)
    steps = plan.run.warmup + plan.run.steps
    expected = steps * 2 * 3 / 4 * payload / payload_share(1500)
    links = predict(plan, topology).links()
    assert len(links) == 16
    for link in links:
        assert link.size_bytes == pytest.approx(expected, rel=1e-5)


def test_messages_of_a_pipeline_are_one_row_for_both_ends() -> None:
    gpt = {"kind": "gpt", "layers": 4, "heads": 4, "width": 64, "context": 8, "batch": 8}
    plan, topology = make(star(2) | {"internal_link": FREE}, workload=gpt, partition={"pipeline": 2, "microbatches": 4})
    found = communication(predict(plan, topology).timeline, {"pipeline": 2, "embedding": 2}).collectives
    rows = {(use.kind, use.ranks, use.per_step) for use in found}
    assert ("send activations", 2, 4) in rows
    assert ("send gradients", 2, 4) in rows
    stream = 4 * 2 * 8 * 64
    assert {use.size_bytes for use in found if use.kind.startswith("send")} == {stream}


def test_a_timeline_without_communication_has_none() -> None:
    spans = (span("compute", "forward", 0, 1), span("step", "step", 0, 1))
    found = communication(Timeline(spans, ranks=1, warmup_steps=0), {})
    assert (found.exposed_s, found.hidden_s, found.collectives) == (0, 0, ())
