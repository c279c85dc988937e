"""All-to-alls with unequal parts: bytes a pair, bytes a link, closed forms, and what gloo does with them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.families import MIXTRAL, gpt
from tests.small_plans import BYTES_PER_S, HOP_S, bench, make, predict, star

from twinstep.communication import LinkUse
from twinstep.compare import structure_differences
from twinstep.effects import Collective, Mark, Program, Wait
from twinstep.exec.calls import Calls, Joined
from twinstep.exec.measure import measure
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.programs import Groups, first_steps, lower, own_names
from twinstep.programs.groups import everybody
from twinstep.programs.stage import microbatch_shape
from twinstep.programs.strategy import Defaults
from twinstep.scenario import load_scenario
from twinstep.sim import Simulation, simulate
from twinstep.sim.algorithms import ALGORITHMS, Request
from twinstep.splits import Splits
from twinstep.workloads import dispatch_bytes, expert_loads, expert_tokens

GPT = {"kind": "gpt", "layers": 2, "heads": 4, "width": 32, "context": 16, "batch": 16}
MIXTURE = GPT | {"experts": 8, "experts_per_token": 2}
PARTS = ((4096, 0, 8192), (1000, 1004, 8, 500_000), (64, 0, 0, 0, 0))


@dataclass(frozen=True)
class Once(Defaults):
    """One all-to-all a step."""

    plan: Plan
    splits: Splits | None

    @property
    def groups(self) -> Mapping[str, Groups]:
        return everybody("all", self.plan.ranks)

    def key(self, rank: int) -> Hashable:
        return None

    def memory_bytes(self, rank: int) -> dict[str, int]:
        return {"total": 0}

    def program(self, rank: int) -> Program:
        size_bytes = sum(self.splits.sizes_bytes) if self.splits else 4096 * self.plan.ranks
        for step in range(self.plan.total_steps):
            yield Mark("step_begin", step)
            handle = yield Collective("all_to_all", "all", size_bytes, "all", splits=self.splits)
            yield Wait(handle)
            yield Mark("step_end", step)


def once(splits: Splits | None, ranks: int, algorithm: str = "direct", library: str = "ideal") -> Simulation:
    plan, topology = bench(star(ranks), ranks, "all_to_all", 8, algorithm=algorithm, library=library)
    return simulate(plan, Once(plan, splits), topology, None, fold=False)


def carried(links: tuple[LinkUse, ...], ranks: int) -> tuple[list[float], list[float]]:
    """Give the bytes that crossed each host's link on the way out, and in."""
    by_ends = {(link.source, link.target): link.size_bytes for link in links}
    out = [by_ends.get((f"host{rank}", "switch0"), 0.0) for rank in range(ranks)]
    return out, [by_ends.get(("switch0", f"host{rank}"), 0.0) for rank in range(ranks)]


@pytest.mark.parametrize("by", ["source", "target"])
@pytest.mark.parametrize("sizes", PARTS)
def test_what_one_sends_another_receives(by: Any, sizes: tuple[int, ...]) -> None:
    splits = Splits(by, sizes)
    ranks = range(len(sizes))
    assert [[splits.sent_bytes(i)[j] for i in ranks] for j in ranks] == [[*splits.received_bytes(j)] for j in ranks]
    assert splits.back.sent_bytes(1) == splits.received_bytes(1)
    assert sum(sum(splits.sent_bytes(i)) for i in ranks) == len(sizes) * sum(sizes)


@pytest.mark.parametrize("algorithm", ["direct", "pairwise"])
@pytest.mark.parametrize("by", ["source", "target"])
@pytest.mark.parametrize("sizes", PARTS)
def test_each_link_carries_what_its_host_sends_and_receives(by: Any, sizes: tuple[int, ...], algorithm: str) -> None:
    splits, ranks = Splits(by, sizes), len(sizes)
    out, into = carried(once(splits, ranks, algorithm).links(), ranks)
    assert out == [sum(splits.sent_bytes(rank)) - splits.sent_bytes(rank)[rank] for rank in range(ranks)]
    assert into == [sum(splits.received_bytes(rank)) - splits.received_bytes(rank)[rank] for rank in range(ranks)]


@pytest.mark.parametrize(("algorithm", "hops"), [("direct", 1), ("pairwise", 0)])
@pytest.mark.parametrize("by", ["source", "target"])
@pytest.mark.parametrize("sizes", PARTS)
def test_the_fullest_link_sets_the_time(by: Any, sizes: tuple[int, ...], algorithm: str, hops: int) -> None:
    """Among n on a star: (n - 1) of the largest part cross the link of who gets, or gives, most."""
    ranks = len(sizes)
    expected_s = (hops or ranks - 1) * HOP_S + (ranks - 1) * max(sizes) / BYTES_PER_S
    found_s = once(Splits(by, sizes), ranks, algorithm).timeline.step_time_s()
    assert found_s == pytest.approx(expected_s, rel=1e-6)


@pytest.mark.parametrize("algorithm", ["direct", "pairwise"])
@pytest.mark.parametrize("library", ["ideal", "gloo", "nccl"])
@pytest.mark.parametrize("ranks", [2, 3, 8, 70])
def test_equal_parts_take_the_same_time_to_the_bit(ranks: int, library: str, algorithm: str) -> None:
    plain, split = (once(each, ranks, algorithm, library) for each in (None, Splits("target", (4096,) * ranks)))
    assert [*plain.timeline.spans] == [*split.timeline.spans]
    assert plain.links() == split.links()


def test_bruck_has_no_unequal_parts() -> None:
    assert ALGORITHMS["bruck"](Request("all_to_all", 3, 12, splits=Splits("target", (4, 0, 8)))) is None


def mixture(data: int, imbalance: float = 0.0, devices: int = 1, **partition: Any) -> tuple[Plan, Any]:
    hosts = data * partition.get("tensor", 1) // devices
    return make(
        star(hosts, devices),
        workload=MIXTURE | {"imbalance": imbalance},
        partition={"data": data, **partition},
        communication={"library": "ideal"},
    )


def exchanged(plan: Plan, rank: int = 0) -> list[Collective]:
    effects = first_steps(lower(plan).program(rank))
    return [each for each in effects if isinstance(each, Collective) and each.group == "expert"]


def parts_of(effect: Collective, ranks: int) -> list[list[int]]:
    """Give the bytes from each rank to each."""
    if effect.splits is None:
        return [[effect.size_bytes // ranks] * ranks for _ in range(ranks)]
    return [[*effect.splits.sent_bytes(rank)] for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("imbalance", [0.0, 0.7, 2.0])
def test_rows_travel_to_their_experts_and_back(ranks: int, imbalance: float) -> None:
    """Lepikhin et al., 2020: tokens x experts a token x width elements leave each rank, less what is dropped."""
    plan, _ = mixture(data=ranks, imbalance=imbalance, expert=ranks)
    shape = microbatch_shape(plan)
    whole = shape.tokens * 2 * shape.width * 4
    for block, start in ((1, 0), (2, 2)):
        sent = [*dispatch_bytes(shape, block, plan.run.seed, ranks)]
        there, back = exchanged(plan)[start : start + 2]
        assert parts_of(there, ranks) == [sent] * ranks
        assert parts_of(back, ranks) == [[size] * ranks for size in sent]
        assert sum(sent) == there.size_bytes == back.size_bytes == whole


def test_the_backward_pass_sends_gradients_the_same_ways() -> None:
    plan, _ = mixture(data=4, imbalance=1.0, expert=4)
    effects = exchanged(plan)
    by_block = {effect.layer: [e.splits for e in effects if e.layer == effect.layer] for effect in effects}
    assert len(by_block) == 2
    for there, back, there_again, back_again in by_block.values():
        assert there == there_again
        assert back == back_again
        assert there is not None
        assert (there.by, there.back) == ("target", back)


def test_dropped_rows_do_not_travel() -> None:
    plan, _ = mixture(data=4, imbalance=2.0, expert=4)
    bounded = plan.model_copy(update={"workload": plan.workload.model_copy(update={"capacity_factor": 1.0})})
    shape = microbatch_shape(bounded)
    kept = sum(expert_loads(shape, 1, bounded.run.seed))
    assert kept < 2 * shape.tokens
    assert exchanged(bounded)[0].size_bytes == kept * shape.width * 4


def test_ranks_of_a_group_agree_on_parts() -> None:
    plan, _ = mixture(data=8, imbalance=1.0, expert=4)
    assert all(exchanged(plan, rank) == exchanged(plan, 0) for rank in range(8))


def test_equal_loads_have_equal_parts() -> None:
    plan, _ = mixture(data=4, expert=4)
    assert [effect.splits for effect in exchanged(plan)] == [None] * 8


def test_the_busiest_expert_only_gets_more_with_more_imbalance() -> None:
    exponents = [0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 4.0]
    most, times = [], []
    for exponent in exponents:
        plan, topology = mixture(data=8, imbalance=exponent, expert=8)
        most.append(max(dispatch_bytes(microbatch_shape(plan), 1, 0, 8)))
        times.append(predict(plan, topology).timeline.step_time_s())
    assert most == sorted(most)
    assert times == sorted(times)
    assert most[0] < most[-1]
    assert times[0] < times[-1]


def test_links_of_popular_experts_carry_more() -> None:
    """In a step each pass sends rows there and back; gradients of what all have go round a ring."""
    ranks, steps = 4, 5
    plan, topology = mixture(data=ranks, imbalance=1.0, expert=ranks)
    even, _ = mixture(data=ranks, expert=ranks)
    shape = microbatch_shape(plan)
    found, plain = (predict(each, topology).links() for each in (plan, even))
    sent = [dispatch_bytes(shape, block, plan.run.seed, ranks) for block in (1, 2)]
    equal = shape.tokens * 2 * shape.width * 4 // ranks
    for side, (uneven, same) in enumerate(zip(carried(found, ranks), carried(plain, ranks), strict=True)):
        for rank in range(ranks):
            much = sum((ranks - 1) * each[rank] + sum(each) - each[rank] for each in sent)
            extra = 2 * steps * (much - 2 * 2 * (ranks - 1) * equal)
            assert uneven[rank] - same[rank] == pytest.approx(extra, rel=1e-9), side


@pytest.mark.parametrize(("data", "expert", "devices"), [(4, 4, 1), (8, 4, 2), (8, 2, 1)])
@pytest.mark.parametrize("library", ["ideal", "gloo", "nccl"])
def test_folded_and_unfolded_times_are_the_same_to_the_bit(data: int, expert: int, devices: int, library: str) -> None:
    plan, topology = mixture(data=data, imbalance=1.0, devices=devices, expert=expert)
    plan = plan.model_copy(update={"communication": plan.communication.model_copy(update={"library": library})})
    name_of = own_names(lower(plan).groups)
    folded, whole = (predict(plan, topology, fold=fold).timeline for fold in (True, False))
    assert folded.unfolded(name_of).spans == whole.spans


def test_buffers_hold_what_comes_in() -> None:
    plan, _ = mixture(data=4, imbalance=1.0, expert=4)
    rows = [sum(part) for part in expert_tokens(microbatch_shape(plan), 1, plan.run.seed, 4)]
    peaks = [lower(plan).memory_bytes(rank)["total"] for rank in range(4)]
    assert peaks.index(max(peaks)) == rows.index(max(rows))


class Recorded:
    """Stands for torch.distributed: notes the sizes of an all-to-all, and does it among this process alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, int, list[int], list[int]]] = []
        monkeypatch.setattr(dist, "all_to_all_single", self._call)

    def _call(self, out: torch.Tensor, into: torch.Tensor, outs: list[int], ins: list[int], **_: Any) -> object:
        self.calls.append((out.numel(), into.numel(), outs, ins))
        return object()


@pytest.mark.parametrize("by", ["source", "target"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_torch_is_given_the_sizes_of_the_parts(by: Any, position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, splits = Recorded(monkeypatch), Splits(by, (40, 0, 8))
    joined: Any = Joined(None, (0, 1, 2), position)  # type: ignore[arg-type]
    Calls({"all": joined}).begin(Collective("all_to_all", "all", 48, "all", splits=splits))
    sent, received = ([size // 4 for size in side(position)] for side in (splits.sent_bytes, splits.received_bytes))
    assert recorded.calls == [(sum(received), sum(sent), received, sent)]


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["data: 4, expert: 4", "data: 2, expert: 2, tensor: 2, sequence_parallel: true"])
def test_gloo_sends_unequal_parts(partition: str, profile: Profile, tmp_path: Path) -> None:
    """The last experts get nothing at all."""
    workload = ", ".join(f"{key}: {value}" for key, value in (MIXTURE | {"imbalance": 16.0}).items())
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"workload: {{{workload}}}\npartition: {{{partition}}}\n"
        "topology: {builder: one_host, devices: 4, device: {peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s}}\n"
        "run: {steps: 2, warmup: 1, compute: emulated}\n"
    )
    scenario = load_scenario(str(path))
    programs = lower(scenario.plan)
    assert any(min(effect.splits.sizes_bytes) == 0 for effect in exchanged(scenario.plan) if effect.splits)
    predicted = simulate(scenario.plan, programs, scenario.topology, profile)
    measured = measure(scenario.plan, profile, lambda step: None)
    whole = predicted.timeline.unfolded(own_names(programs.groups))
    assert structure_differences(whole, measured.timeline) == ()


def of_tensors(plan: Plan, kind: str) -> list[int]:
    effects = first_steps(lower(plan).program(0))
    return [e.size_bytes for e in effects if isinstance(e, Collective) and (e.group, e.kind) == ("tensor", kind)]


@pytest.mark.parametrize(("tensor", "expert"), [(2, 1), (2, 2), (4, 2)])
def test_sequence_parallel_ranks_dispatch_their_own_tokens_and_gather_rows(tensor: int, expert: int) -> None:
    """Megatron-Core's all-to-all dispatcher: A2A(EP) of S/TP x B tokens, AG(TP), experts, RS(TP), A2A(EP)."""
    plan, _ = mixture(data=2, tensor=tensor, sequence_parallel=True, expert=expert)
    dense, _ = make(star(2 * tensor), workload=GPT, partition={"data": 2, "tensor": tensor, "sequence_parallel": True})
    shape = microbatch_shape(plan)
    if expert > 1:
        assert [e.size_bytes for e in exchanged(plan)] == [shape.own_tokens * 2 * shape.width * 4] * 4 * shape.blocks
    for kind in ("all_gather", "reduce_scatter"):
        extra = sum(of_tensors(plan, kind)) - sum(of_tensors(dense, kind))
        assert extra == shape.blocks * 2 * (2 - 1) * shape.stream_bytes  # of k rows a token rather than of tokens
    router_bytes = 4 * MIXTURE["experts"] * shape.width
    assert sum(of_tensors(plan, "all_reduce")) - sum(of_tensors(dense, "all_reduce")) == shape.blocks * router_bytes


def test_experts_of_sequence_parallel_ranks_compute_as_much() -> None:
    """Only the router, norms and sums are shared by tokens: the rows of an expert are the same."""
    shapes = [gpt(**MIXTRAL).shape(4, tensor=2, sequence_parallel=shares) for shares in (False, True)]
    assert expert_tokens(shapes[0], 1, 0, 4) == expert_tokens(shapes[1], 1, 0, 4)
    assert sum(expert_loads(shapes[1], 1, seed=0)) == 2 * shapes[1].own_tokens == shapes[1].tokens


def test_recomputed_rows_are_gathered_again() -> None:
    """Gradients of the weights of rows need all that came back, so the whole exchange is repeated."""
    plain, full = (
        mixture(data=2, tensor=2, sequence_parallel=True, expert=2, recompute=recompute)[0]
        for recompute in ("none", "full")
    )
    assert len(exchanged(full)) - len(exchanged(plain)) == 2 * GPT["layers"]
    for kind in ("all_gather", "reduce_scatter"):
        assert len(of_tensors(full, kind)) - len(of_tensors(plain, kind)) == 2 * GPT["layers"]


def test_a_shared_expert_is_not_sequence_parallel() -> None:
    workload = MIXTURE | {"shared_expert": 32}
    with pytest.raises(ValueError, match=r"needs workload\.shared_expert of 0, not 32: set"):
        make(star(4), workload=workload, partition={"data": 2, "tensor": 2, "sequence_parallel": True})
