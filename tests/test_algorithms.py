"""Every algorithm equals its closed form on uniform graphs, and moves the bytes that it says."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2

import numpy as np
import pytest
from tests.repeated import slow_but
from tests.small_plans import BYTES_PER_S, FREE, HOP_S, LINK, alone_s, bench, predict, star

from twinstep.sim.algorithms import ALGORITHMS, Pattern, Request
from twinstep.sim.algorithms.pattern import double_tree_edges
from twinstep.sim.algorithms.phase import segments
from twinstep.sim.algorithms.trees import double_tree_height

RANKS = (2, 3, 4, 7, 8, 13, 16)
SIZES = (1, 4096, 3_000_001, 64 * 2**20)
Law = Callable[[int, float, float, float], float]
"""Seconds, from n ranks, S bytes, a seconds a step, B bytes/s."""


def levels(n: int) -> int:
    return ceil(log2(n))


def surplus(n: int, size: float, a: float, bandwidth: float) -> float:
    """What ranks beyond the largest power of two add to an all-reduce."""
    return 0.0 if n & (n - 1) == 0 else 2 * (a + size / bandwidth)


def power(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def halving_doubling_s(n: int, size: float, a: float, bandwidth: float) -> float:
    p = power(n)
    return 2 * log2(p) * a + 2 * (p - 1) / p * size / bandwidth + surplus(n, size, a, bandwidth)


def pipelined_s(n: int, size: float, a: float, bandwidth: float) -> float:
    m, k = segments(size), levels(n)
    return (m + k - 1) * (a + k * size / (m * bandwidth))


def double_tree_s(n: int, size: float, a: float, bandwidth: float) -> float:
    """Every rank's link carries at most four halves; with two or three ranks no rank has so many neighbours."""
    m, d = segments(size / 2), double_tree_height(n)
    sent = np.bincount(Pattern("double_tree", n).pairs()[0])
    return (m + 2 * d - 1) * (a + sent.max() * size / 2 / (m * bandwidth))


def chain_s(n: int, size: float, a: float, bandwidth: float) -> float:
    m = segments(size)
    return (m + n - 2) * (a + size / (m * bandwidth))


def bits(n: int) -> int:
    return sum(rank.bit_count() for rank in range(n))


LAWS: dict[tuple[str, str], Law] = {
    ("ring", "all_reduce"): lambda n, s, a, b: 2 * (n - 1) * (a + s / (n * b)),
    ("ring", "all_gather"): lambda n, s, a, b: (n - 1) * (a + s / (n * b)),
    ("ring", "reduce_scatter"): lambda n, s, a, b: (n - 1) * (a + s / (n * b)),
    ("ring", "broadcast"): chain_s,
    ("ring", "reduce"): chain_s,
    ("bidirectional_ring", "all_reduce"): lambda n, s, a, b: 2 * (n - 1) * (a + s / (n * b)),  # one port for both
    ("halving_doubling", "all_reduce"): halving_doubling_s,
    ("recursive_doubling", "all_reduce"): lambda n, s, a, b: log2(power(n)) * (a + s / b) + surplus(n, s, a, b),
    ("recursive_doubling", "barrier"): lambda n, s, a, b: log2(power(n)) * a + surplus(n, 0, a, b),
    ("bruck", "all_gather"): lambda n, s, a, b: levels(n) * a + (n - 1) * s / (n * b),
    ("bruck", "all_to_all"): lambda n, s, a, b: levels(n) * a + bits(n) * s / (n * b),
    ("bruck", "barrier"): lambda n, s, a, b: levels(n) * a,
    ("pairwise", "all_to_all"): lambda n, s, a, b: (n - 1) * (a + s / (n * b)),
    ("direct", "all_to_all"): lambda n, s, a, b: a + (n - 1) * s / (n * b),
    ("direct", "all_gather"): lambda n, s, a, b: a + (n - 1) * s / (n * b),
    ("direct", "gather"): lambda n, s, a, b: a + (n - 1) * s / (n * b),
    ("direct", "scatter"): lambda n, s, a, b: a + (n - 1) * s / (n * b),
    ("direct", "broadcast"): lambda n, s, a, b: a + (n - 1) * s / b,
    ("binomial", "broadcast"): lambda n, s, a, b: levels(n) * (a + s / b),
    ("binomial", "reduce"): lambda n, s, a, b: levels(n) * (a + s / b),
    ("binomial", "all_reduce"): lambda n, s, a, b: 2 * levels(n) * (a + s / b),
    ("binomial", "barrier"): lambda n, s, a, b: 2 * levels(n) * a,
    ("pipelined_binomial", "broadcast"): pipelined_s,
    ("pipelined_binomial", "reduce"): pipelined_s,
    ("double_binary_tree", "all_reduce"): double_tree_s,
    ("in_network", "all_reduce"): lambda n, s, a, b: a + s / b,
    ("in_network", "broadcast"): lambda n, s, a, b: a + s / b,
    ("in_network", "reduce"): lambda n, s, a, b: a + s / b,
    ("in_network", "barrier"): lambda n, s, a, b: a,
}


@pytest.mark.parametrize("size", slow_but((1, 3_000_001), SIZES))
@pytest.mark.parametrize("ranks", slow_but((2, 8, 13), RANKS))
@pytest.mark.parametrize("case", LAWS, ids="-".join)
def test_an_algorithm_on_a_star_equals_its_closed_form(case: tuple[str, str], ranks: int, size: int) -> None:
    algorithm, kind = case
    payload = 0 if kind == "barrier" else size
    expected_s = LAWS[case](ranks, payload, HOP_S, BYTES_PER_S)
    if case == ("bidirectional_ring", "all_reduce") and ranks == 2:
        pytest.skip("two ranks have one neighbour, and both halves of the ring are the same")
    assert alone_s(star(ranks), ranks, kind, payload or 1, algorithm=algorithm) == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("kind", ["gather", "scatter"])
@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_binomial_gather_and_scatter_of_powers_of_two(kind: str, ranks: int) -> None:
    expected_s = levels(ranks) * HOP_S + (ranks - 1) / ranks * 8e6 / BYTES_PER_S
    assert alone_s(star(ranks), ranks, kind, 8 * 10**6, algorithm="binomial") == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_halving_and_doubling_of_powers_of_two(kind: str, ranks: int) -> None:
    expected_s = levels(ranks) * HOP_S + (ranks - 1) / ranks * 8e6 / BYTES_PER_S
    found_s = alone_s(star(ranks), ranks, kind, 8 * 10**6, algorithm="halving_doubling")
    assert found_s == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("ranks", [3, 5, 8])
def test_two_directions_of_a_ring_of_cables_carry_half_each(ranks: int) -> None:
    cables = {"builder": "ring", "hosts": ranks, "link": LINK, "internal_link": FREE}
    one = alone_s(cables, ranks, "all_reduce", 10**7, algorithm="ring")
    two = alone_s(cables, ranks, "all_reduce", 10**7, algorithm="bidirectional_ring")
    assert one == pytest.approx(2 * (ranks - 1) * (5e-6 + 1e7 / (ranks * BYTES_PER_S)), rel=1e-6)
    assert two == pytest.approx(2 * (ranks - 1) * (5e-6 + 5e6 / (ranks * BYTES_PER_S)), rel=1e-6)


@pytest.mark.parametrize(("kind", "rounds"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
@pytest.mark.parametrize(("hosts", "devices"), [(2, 2), (3, 4), (4, 8)])
def test_hierarchical_rings_equal_their_closed_form(kind: str, rounds: int, hosts: int, devices: int) -> None:
    size, inner = 12 * 10**6, {"bandwidth": "100 Gb/s", "latency": "1 us"}
    topology = star(hosts, devices) | {"internal_link": inner}
    within_s = (devices - 1) * (2e-6 + size / (devices * 100e9 / 8))
    between_s = (hosts - 1) * (HOP_S + 2e-6 + size / (hosts * BYTES_PER_S))
    found_s = alone_s(topology, hosts * devices, kind, size, algorithm="hierarchical")
    assert found_s == pytest.approx(rounds * (within_s + between_s), rel=1e-6)


@pytest.mark.parametrize("ranks", range(2, 34))
def test_an_inner_node_of_one_tree_is_a_leaf_of_the_other(ranks: int) -> None:
    edges = double_tree_edges(ranks)
    first, second = edges[: ranks - 1], edges[ranks - 1 :]
    for tree in (first, second):
        assert len({child for child, _ in tree}) == ranks - 1
        children = np.bincount([parent for _, parent in tree], minlength=ranks)
        assert children.max() <= 2
    inner = [{parent for _, parent in tree} for tree in (first, second)]
    roots = [set(range(ranks)) - {child for child, _ in tree} for tree in (first, second)]
    assert inner[0] & inner[1] <= roots[0] | roots[1]
    assert max(np.bincount(Pattern("double_tree", ranks).pairs()[0])) <= 4
    assert double_tree_height(ranks) <= levels(ranks) + 1


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_rank_sends_and_receives_at_least_what_it_must(name: str, kind: str) -> None:
    """Count the bytes into and out of every rank; each must have got what only others had."""
    for ranks in (2, 4, 6, 8):
        size = 1200.0
        phases = ALGORITHMS[name](Request(kind, ranks, size, per_host=2))  # type: ignore[arg-type]
        if phases is None or name == "in_network":
            continue
        out, into = np.zeros(ranks), np.zeros(ranks)
        for phase in phases:
            sources, targets = phase.pattern.pairs()
            np.add.at(out, sources, phase.flow_bytes)
            np.add.at(into, targets, phase.flow_bytes)
        assert out.sum() == pytest.approx(into.sum())
        least = {"broadcast": 1.0, "reduce": 0.0}.get(kind, (ranks - 1) / ranks) * size
        assert (into[1:] >= least - 1e-9).all()
        if kind == "all_reduce":
            assert out.sum() >= 2 * (ranks - 1) * size - 1e-6


@pytest.mark.parametrize("ranks", [5, 8])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all", "broadcast", "reduce", "barrier"])
def test_the_best_algorithm_is_no_slower_than_the_fastest(kind: str, ranks: int) -> None:
    times_s = [
        alone_s(star(ranks), ranks, kind, 10**5, algorithm=name)
        for name, algorithm in ALGORITHMS.items()
        if algorithm(Request(kind, ranks, 1.0))  # type: ignore[arg-type]
    ]
    assert alone_s(star(ranks), ranks, kind, 10**5, algorithm="best") <= min(times_s)


def test_forcing_an_algorithm_that_lacks_the_collective_leaves_the_choice_to_the_library() -> None:
    plan, topology = bench(star(4), 4, "barrier", 1, library="gloo", algorithm="ring")
    assert predict(plan, topology).algorithms == {"barrier in group all": "bruck"}
