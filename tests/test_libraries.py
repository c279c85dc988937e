"""Library models against what was measured and published of the libraries."""

from __future__ import annotations

from typing import Any

import pytest
from tests.repeated import slow_but
from tests.small_plans import FREE, RATES, alone_s, bench, make, predict, star

from twinstep.communication import CollectiveUse
from twinstep.sim.algorithms import Request
from twinstep.sim.libraries import Gloo, Ideal, Nccl

KINDS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "barrier",
)

# docs/physics.md: 4 hosts on a star of 400 Mbit/s, 8 MiB; time over S/B times the bytes that must cross a link.
GLOO_MEASURED = {
    "all_reduce": (1.045, 1.5, 0.005),
    "reduce": (1.56, 1.0, 0.01),
    "all_gather": (1.08, 0.75, 0.04),
    "reduce_scatter": (2.19, 0.75, 0.05),
    "gather": (1.05, 0.75, 0.01),
    "scatter": (1.03, 0.75, 0.02),
    "broadcast": (2.87, 1.0, 0.10),
}


@pytest.mark.parametrize("kind", GLOO_MEASURED)
def test_gloo_across_hosts_takes_what_was_measured(kind: str) -> None:
    ratio, optimum, tolerance = GLOO_MEASURED[kind]
    link = {"bandwidth": "400 Mb/s", "latency": "1 us"}
    found_s = alone_s(star(4, **link), 4, kind, 8 * 2**20, library="gloo", algorithm="auto")
    assert found_s / (optimum * 8 * 2**20 / 50e6) == pytest.approx(ratio, rel=tolerance)


# Emulated hosts on a star of 400 Mbit/s: median of 8, ms, and the part of a rank's buffer that the last rank sends.
GLOO_LARGE_REDUCE = [(3, 16, 568.6, 1.252), (4, 16, 570.0, 1.127), (3, 32, 1140.0, 1.283), (8, 32, 1272.4, 1.064)]


@pytest.mark.parametrize(("ranks", "mebibytes", "measured_ms", "sent"), GLOO_LARGE_REDUCE)
def test_gloo_sends_a_large_reduce_nearly_whole_around_the_ring(
    ranks: int, mebibytes: int, measured_ms: float, sent: float
) -> None:
    link = {"bandwidth": "400 Mb/s", "latency": "1 us"}
    size_bytes = mebibytes * 2**20
    found_s = alone_s(star(ranks, **link), ranks, "reduce", size_bytes, library="gloo", algorithm="auto")
    assert found_s == pytest.approx(measured_ms / 1e3, rel=0.01)
    around, to_root = Gloo(None).offers(Request("reduce", ranks, size_bytes))[0].phases
    assert around.flow_bytes + to_root.flow_bytes == pytest.approx(sent * size_bytes, rel=0.06)


def test_gloo_gathers_between_two_hosts_in_three_turns() -> None:
    """Emulated hosts, 4 MiB at 200 Mbit/s: 131 ms where the bytes take 87.9 (7 of 8 runs)."""
    link = {"bandwidth": "200 Mb/s", "latency": "1 us"}
    found_s = alone_s(star(2, **link), 2, "all_gather", 4 * 2**20, library="gloo", algorithm="auto")
    assert found_s == pytest.approx(0.131, rel=0.02)


def test_gloo_all_to_all_takes_what_was_measured() -> None:
    """Measured less: two ranks sometimes call within a message's latency, and then both directions flow at once."""
    link = {"bandwidth": "400 Mb/s", "latency": "1 us"}
    found_s = alone_s(star(4, **link), 4, "all_to_all", 8 * 2**20, library="gloo", algorithm="auto")
    assert found_s / (0.75 * 8 * 2**20 / 50e6) == pytest.approx(1.54, rel=0.15)


def test_gloo_runs_two_collectives_of_a_group_at_once() -> None:
    """Three buckets issued at almost the same time on a slow network: the third waits for one of the first two."""
    mlp = {"kind": "mlp", "hidden": [256, 256, 256, 256], "batch": 4}
    slow = star(2, bandwidth="10 Mb/s")
    plan, topology = make(slow, workload=mlp, partition={"data": 2}, sync={"bucket": "256 KiB"})
    spans = predict(plan, topology).timeline.spans
    first, second, third, *_ = sorted(
        (span for span in spans if span.phase == "communication" and span.step == 2), key=lambda span: span.operation
    )
    bucket_s = alone_s(slow, 2, "all_reduce", first.size_bytes, library="gloo")
    assert first.duration_s > 1.5 * bucket_s
    assert second.end_s < third.end_s - 0.5 * bucket_s


def gpus(hosts: int, link: str, nic: str) -> dict[str, Any]:
    """Describe hosts of eight GPUs on an NVSwitch, each with a network card of its own on a rail."""
    return {
        "builder": "rail",
        "hosts": hosts,
        "devices_per_host": 8,
        "device": RATES,
        "spines": 8,
        "internal_link": {"bandwidth": link, "latency": "0.3 us"},
        "pcie_link": {"bandwidth": "64 GB/s", "latency": "0.1 us"},
        "link": {"bandwidth": nic, "latency": "1 us"},
        "uplink": {"bandwidth": "800 Gb/s", "latency": "1 us"},
    }


# Bus bandwidth of all_reduce in GB/s as published, with the source; the links are what NCCL counts on for NVLink.
PUBLISHED = {
    "8 A100, NVSwitch": (1, "240 GB/s", "25 GB/s", 8, 235e9, 0.05),  # 230-240: nccl-tests issue 149
    "16 A100, 8 x 200 Gb/s": (2, "240 GB/s", "24 GB/s", 16, 192e9, 0.05),  # 192: NVIDIA/nccl issue 812
    "8 H100, NVLS": (1, "370.8 GB/s", "50 GB/s", 8, 480e9, 0.05),  # about 480: nccl-tests issue 212
    "32 H100, 8 x 400 Gb/s": (4, "370.8 GB/s", "45 GB/s", 32, 320e9, 0.15),  # 320: NVIDIA/nccl issue 1221, on RoCE
}


@pytest.mark.parametrize("machine", PUBLISHED)
def test_nccl_reaches_the_published_bus_bandwidth(machine: str) -> None:
    hosts, link, nic, ranks, expected, tolerance = PUBLISHED[machine]
    size = 8 * 2**30
    found_s = alone_s(gpus(hosts, link, nic), ranks, "all_reduce", size, library="nccl", algorithm="auto")
    use = CollectiveUse("all_reduce", "all", ranks, size, 1, found_s)
    assert use.bus_bandwidth_bytes_per_s == pytest.approx(expected, rel=tolerance)


def test_nccl_chooses_by_size_and_ranks() -> None:
    """Small messages take a protocol with flags, large ones Simple or NVLS; many hosts favour trees for small ones."""

    def chosen(hosts: int, size: int, link: str = "240 GB/s") -> str:
        plan, topology = bench(gpus(hosts, link, "25 GB/s"), 8 * hosts, "all_reduce", size, library="nccl")
        return predict(plan, topology).algorithms["all_reduce in group all"]

    assert chosen(1, 1024).endswith(" LL")
    assert chosen(1, 2**32) == "ring Simple"
    assert chosen(1, 2**32, "370.8 GB/s") == "NVLS"
    assert chosen(16, 64 * 1024).startswith("tree ")
    assert chosen(16, 2**33) in ("ring Simple", "tree Simple")


def test_nccl_small_all_reduce_takes_its_tuned_latency() -> None:
    """Eight GPUs of one host, ring LL: 6.6 us and 14 steps of 0.6 us, or a tree: 6.8 us and 14 steps of 0.6 us."""
    found_s = alone_s(gpus(1, "240 GB/s", "25 GB/s"), 8, "all_reduce", 8, library="nccl", algorithm="auto")
    assert found_s == pytest.approx(6.6e-6 + 14 * 0.6e-6, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 10**5, 10**8])
def test_nothing_is_faster_than_ideal(kind: str, size: int) -> None:
    topology = star(4, 2) | {"internal_link": {"bandwidth": "100 GB/s", "latency": "0.5 us"}}
    ideal_s = alone_s(topology, 8, kind, size)
    for library in ("gloo", "nccl"):
        for algorithm in ("auto", "best", "ring"):
            assert ideal_s <= alone_s(topology, 8, kind, size, library=library, algorithm=algorithm) * (1 + 1e-9)


@pytest.mark.parametrize("size", [10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", slow_but(["all_reduce"], KINDS))
def test_on_rails_best_is_no_slower_than_any_other_choice(kind: str, size: int) -> None:
    topology = gpus(4, "240 GB/s", "24 GB/s")
    for library in ("gloo", "nccl", "ideal"):
        best_s = alone_s(topology, 32, kind, size, library=library, algorithm="best")
        for algorithm in ("auto", "ring", "ring_per_device", "hierarchical", "double_binary_tree"):
            assert best_s <= alone_s(topology, 32, kind, size, library=library, algorithm=algorithm) * (1 + 1e-9)
        assert alone_s(topology, 32, kind, size) <= best_s * (1 + 1e-9)


def test_terms_of_a_step_and_of_sums_are_charged() -> None:
    terms = Ideal(step_s=1e-6, reduction_s_per_byte=1e-9)
    plain_s = alone_s(star(4), 4, "all_reduce", 4000, algorithm="ring")
    assert alone_s(star(4), 4, "all_reduce", 4000, terms, algorithm="ring") == pytest.approx(plain_s + 6e-6 + 3e-6)


def test_every_library_has_every_collective() -> None:
    for kind in KINDS:
        for library in ("gloo", "nccl", "ideal"):
            assert alone_s(star(3, 2) | {"internal_link": FREE}, 6, kind, 600, library=library) > 0
    assert Nccl(1e9).slots == 1
