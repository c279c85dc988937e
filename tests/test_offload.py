"""The optimizer's state on the host: bytes, times and memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.offloaded_plans import BANDWIDTH, LATENCY_S, PEAK, each_partition, plan_of, plan_without, timeline_of

from twinstep.effects import HostCompute, HostCopy
from twinstep.host_memory import host_needs
from twinstep.plan import Plan
from twinstep.programs import Hybrid, first_steps
from twinstep.timeline import Span, Timeline
from twinstep.topologies import build


def copies(plan: Plan, kind: str, rank: int = 0) -> list[int]:
    effects = first_steps(Hybrid(plan).program(rank))
    return [effect.size_bytes for effect in effects if isinstance(effect, HostCopy) and effect.kind == kind]


def parameter_bytes(plan: Plan, rank: int = 0) -> int:
    """Count what a rank updates without offload, in bytes of parameters."""
    return Hybrid(plan_without(plan)).memory_bytes(rank)["optimizer_state"] // 2


def copied_s(sizes_bytes: list[int], bandwidth: float = 1e9) -> float:
    return sum(LATENCY_S + size_bytes / bandwidth for size_bytes in sizes_bytes)


def updated_s(plan: Plan, rank: int = 0) -> float:
    steps = [effect for effect in first_steps(Hybrid(plan).program(rank)) if isinstance(effect, HostCompute)]
    return sum(effect.work_flops / PEAK + effect.bytes_moved / BANDWIDTH for effect in steps)


def of_lane(timeline: Timeline, lane: str, rank: int = 0) -> list[Span]:
    return [span for span in timeline.spans if span.lane == lane and span.rank == rank]


each_overlap = pytest.mark.parametrize("overlap", [True, False])


@each_overlap
@each_partition
def test_a_rank_sends_its_gradients_and_gets_its_parameters(partition: dict[str, Any], overlap: bool) -> None:
    """Of P bytes that it updates it sends P and gets P: 4 M bytes for M parameters in the paper, 8 M of float32."""
    plan = plan_of(overlap=overlap, **partition)
    for rank in range(plan.ranks):
        sent, back = copies(plan, "to_host", rank), copies(plan, "to_device", rank)
        assert sorted(sent) == sorted(back)
        assert sum(sent) == pytest.approx(parameter_bytes(plan, rank), rel=0.01)  # shards are padded


@each_partition
def test_the_host_updates_every_parameter_once(partition: dict[str, Any]) -> None:
    plan = plan_of(**partition)
    effects = first_steps(Hybrid(plan).program(0))
    kernels = [kernel for effect in effects if isinstance(effect, HostCompute) for kernel in effect.kernels]
    assert {kernel.name for kernel in kernels} == {"adamw"}
    assert 4 * sum(kernel.shape[0] for kernel in kernels) == sum(copies(plan, "to_host"))


@pytest.mark.parametrize("partition", [{}, {"microbatches": 4}, {"recompute": "full"}], ids=str)
def test_without_overlap_a_step_is_a_sum(partition: dict[str, Any]) -> None:
    """The step without offload, less the device's update; gradients there; the host's update; parameters back."""
    plan = plan_of(overlap=False, **partition)
    without = timeline_of(plan_without(plan))
    expected = without.step_time_s() - without.phases_s()["optimizer"]
    expected += 2 * copied_s(copies(plan, "to_host")) + updated_s(plan)
    found = timeline_of(plan)
    assert found.step_time_s() == pytest.approx(expected, rel=1e-9)
    assert found.phases_s()["host_optimizer"] == pytest.approx(updated_s(plan), rel=1e-9)
    assert "optimizer" not in found.phases_s()


def test_without_overlap_sharded_ranks_add_the_same_terms() -> None:
    """Each on a host of its own: they share neither links to hosts nor processors."""
    plan = plan_of(overlap=False, data=4, hosts=4, sharding="optimizer")
    without = timeline_of(plan_without(plan))
    expected = without.step_time_s() - without.phases_s()["optimizer"]
    expected += 2 * copied_s(copies(plan, "to_host")) + updated_s(plan)
    assert timeline_of(plan).step_time_s() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("link", ["100 MB/s", "1 GB/s", "100 GB/s"])
def test_with_overlap_a_step_lies_between_its_bounds(link: str) -> None:
    plan, apart = plan_of(link=link), plan_of(link=link, overlap=False)
    bandwidth = {"100 MB/s": 1e8, "1 GB/s": 1e9, "100 GB/s": 1e11}[link]
    without = timeline_of(plan_without(plan))
    passes_s = without.step_time_s() - without.phases_s()["optimizer"]
    sizes = copies(plan, "to_host")
    there_s, update_s = copied_s(sizes, bandwidth), updated_s(plan)
    last_s = copied_s(sizes[-1:], bandwidth)
    found = timeline_of(plan).step_time_s()
    assert found >= max(passes_s + last_s, there_s) + max(update_s + last_s, there_s) - 1e-12
    assert found < timeline_of(apart).step_time_s()


def test_a_slow_link_is_busy_from_the_first_gradient_to_the_last_parameter() -> None:
    """Copies follow each other without a gap; the host's fast update hides behind those that travel back."""
    plan = plan_of(link="10 MB/s", processor={"peak": "1000 TFLOP/s", "memory_bandwidth": "1000 TB/s"})
    timeline = timeline_of(plan)
    sizes = copies(plan, "to_host")
    there, back = of_lane(timeline, "to_host"), of_lane(timeline, "to_device")
    assert max(s.end_s for s in there) - there[0].start_s == pytest.approx(copied_s(sizes, 1e7), rel=1e-9)
    assert max(s.end_s for s in back) - back[0].start_s == pytest.approx(copied_s(sizes, 1e7), rel=1e-9)
    assert timeline.step_time_s() == pytest.approx(there[0].start_s + 2 * copied_s(sizes, 1e7), rel=1e-3)


def test_copies_are_spans_of_their_own() -> None:
    timeline = timeline_of(plan_of())
    for lane in ("to_host", "to_device"):
        spans = of_lane(timeline, lane)
        assert spans
        assert {span.phase for span in spans} == {"communication"}
        assert all(span.operation.startswith(f"{lane}[bucket=") for span in spans)
    assert {span.lane for span in timeline.spans if span.phase == "host_optimizer"} == {"compute"}
    assert sum(timeline.phases_s().values()) == pytest.approx(timeline.step_time_s())


@each_partition
def test_gradients_leave_after_what_completes_them(partition: dict[str, Any]) -> None:
    """A copy begins after the reduction of its bucket, and two are under way at most."""
    timeline = timeline_of(plan_of(**partition), fold=False)
    for rank in range(timeline.ranks):
        ends = {
            span.operation.partition("[")[2]: span.end_s
            for span in timeline.spans
            if span.rank == rank and span.operation.startswith(("all_reduce[bucket", "reduce_scatter[bucket"))
            if span.lane == "data"
        }
        of_tensors = [span for span in timeline.spans if span.rank == rank and span.lane == "tensor"]
        partial = [span.end_s for span in of_tensors if span.operation.startswith("all_reduce[bucket")]
        there = sorted(of_lane(timeline, "to_host", rank), key=lambda span: span.end_s)
        for span in there:
            assert span.end_s >= ends.get(span.operation.partition("[")[2], 0.0) + LATENCY_S
        if "data" not in partition:
            assert there[0].start_s >= max(partial, default=0.0)
        assert all(later.start_s >= first.end_s for first, later in zip(there, there[2:], strict=False))
        begin_s = min(span.start_s for span in timeline.spans if span.phase == "host_optimizer" and span.rank == rank)
        assert begin_s >= max(span.end_s for span in there)


@each_partition
def test_folded_ranks_take_the_times_of_all(partition: dict[str, Any]) -> None:
    plan = plan_of(**partition)
    folded, everybody = timeline_of(plan), timeline_of(plan, fold=False)
    assert folded.step_time_s() == everybody.step_time_s()
    assert folded.phases_s() == pytest.approx(everybody.phases_s())


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_of_a_host_share_its_processor(ranks: int) -> None:
    apart, together = (timeline_of(plan_of(data=ranks, hosts=hosts)) for hosts in (ranks, 1))
    assert together.phases_s()["host_optimizer"] == pytest.approx(ranks * apart.phases_s()["host_optimizer"])


def test_more_is_never_slower() -> None:
    links = [timeline_of(plan_of(link=link)).step_time_s() for link in ("50 MB/s", "500 MB/s", "5 GB/s", "50 GB/s")]
    hosts = [
        timeline_of(plan_of(processor={"memory_bandwidth": bandwidth})).step_time_s()
        for bandwidth in ("1 GB/s", "10 GB/s", "100 GB/s")
    ]
    for times_s in (links, hosts):
        assert all(slower > faster for slower, faster in pairwise(times_s))


@each_partition
def test_the_state_moves_to_the_host(partition: dict[str, Any]) -> None:
    """AdamW's state is twice the parameters; the host has a copy of these and their gradients, too."""
    plan = plan_of(**partition)
    for rank in range(plan.ranks):
        before, device = (Hybrid(each).memory_bytes(rank) for each in (plan_without(plan), plan))
        host = Hybrid(plan).host_memory_bytes(rank)
        assert device["optimizer_state"] == 0
        assert host["optimizer_state"] == pytest.approx(before["optimizer_state"], rel=0.01)
        assert host["parameters"] == host["gradients"] == host["optimizer_state"] / 2
        assert device["parameters"] == before["parameters"]
        assert device["total"] <= before["total"] - before["optimizer_state"]
        assert all(min(entry.after) >= 0 and min(entry.during) >= 0 for entry in Hybrid(plan).ledger(rank))
    hosts = [*host_needs(plan, build(plan.topology))]  # type: ignore[arg-type]
    total = sum(Hybrid(plan).host_memory_bytes(rank)["total"] for rank in range(plan.ranks))
    assert [need.parts["total"] for need in hosts] == [total]


def test_gradients_of_few_buckets_are_on_the_device() -> None:
    """Two that travel, and those that a half of a block makes."""
    plan = plan_of()
    (chunk,) = Hybrid(plan).account(0).chunks
    largest = max(sum(parameter.size_bytes for parameter in parameters) for parameters in chunk.parameters)
    sizes = copies(plan, "to_host")
    most = max(entry.during.gradients for entry in Hybrid(plan).ledger(0))
    assert most <= 2 * max(sizes) + 2 * largest
    assert most < sum(sizes) / 2
    last = [*Hybrid(plan).ledger(0)][-1].after
    assert last.gradients == 0
