"""Compression: bytes in closed form, what plans communicate, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.small_plans import BYTES_PER_S, make, predict, star

from twinstep.assumptions import assumptions
from twinstep.check import plan_lines
from twinstep.compression import Compression
from twinstep.effects import Collective, Compute, Transfer
from twinstep.exec import calls
from twinstep.kernels import Kernel
from twinstep.learning.codecs import Codec, Place, codec
from twinstep.profile import Profile
from twinstep.programs import DataParallel, ParameterServer, first_steps, lower
from twinstep.programs.exchange import exchange
from twinstep.scenario import Scenario, load_scenario
from twinstep.sim.contents import deliver

SHAPES = [(40, 30), (40,), (7, 40), (7,)]
ELEMENTS = 40 * 30 + 40 + 7 * 40 + 7
KINDS: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "fp16"},
    {"kind": "bf16"},
    {"kind": "int8"},
    {"kind": "top_k", "ratio": 0.1},
    {"kind": "top_k", "ratio": 0.1, "error_feedback": False},
    {"kind": "random_k", "ratio": 0.1},
    {"kind": "random_k", "ratio": 0.1, "error_feedback": False},
    {"kind": "power_sgd", "rank": 2},
    {"kind": "power_sgd", "rank": 3, "error_feedback": False},
]
KEEPING = [options for options in KINDS if Compression(**options).feeds_back]


def name_of(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values()))


def gradients(ranks: int, steps: int) -> np.ndarray[Any, Any]:
    """Draw (steps, ranks, elements)."""
    return np.random.default_rng(1).standard_normal((steps, ranks, ELEMENTS)).astype(np.float32)


def together(own: list[Codec], step: int, given_gradients: np.ndarray[Any, Any], dtype: str = "float32") -> None:
    """Let ranks exchange their gradients in one step."""
    for each, gradient in zip(own, given_gradients, strict=True):
        each.gradient[:] = gradient
    for number in range(len(own[0].payloads)):
        for each in own:
            each.encode(number, step)
        payloads = [each.payloads[number] for each in own]
        kind = "all_gather" if payloads[0].ndim == 2 else "all_reduce"
        deliver([Collective(kind, "data", 0, "data", dtype=dtype, contents=p) for p in payloads])  # type: ignore[arg-type]
    for each in own:
        each.decode(step)


def dtype_of(options: dict[str, Any]) -> str:
    return {"fp16": "float16", "bf16": "bfloat16"}.get(options["kind"], "float32")


def ranks_of(options: dict[str, Any], ranks: int) -> list[Codec]:
    return [codec(Compression(**options), SHAPES, Place(ranks, rank, (0, 0))) for rank in range(ranks)]


def closed_form_bytes(options: dict[str, Any], ranks: int) -> list[int]:
    """Give the bytes of a rank's whole buffer, a number a round, of all gradients of `SHAPES`."""
    kept = int(0.1 * ELEMENTS)
    factors = {2: (47, 40 + 7, 30 + 40), 3: (47 + 280, 40, 30)}  # of rank 3, those of the second matrix save too little
    rank = options.get("rank", 2)
    whole, rows, columns = factors[rank]
    return {
        "none": [4 * ELEMENTS],
        "fp16": [2 * ELEMENTS],
        "bf16": [2 * ELEMENTS],
        "int8": [8 * ranks, ranks * ELEMENTS],
        "top_k": [8 * kept * ranks],
        "random_k": [4 * kept],
        "power_sgd": [4 * whole, 4 * rank * rows, 4 * rank * columns],
    }[options["kind"]]


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_bytes_are_those_of_the_closed_form(options: dict[str, Any], ranks: int) -> None:
    found = exchange(Compression(**options), SHAPES, ranks)
    assert [each.size_bytes for each in found.rounds] == closed_form_bytes(options, ranks)
    payloads = codec(Compression(**options), SHAPES, Place(ranks, 0, (0, 0))).payloads
    assert [payload.nbytes for payload in payloads] == closed_form_bytes(options, ranks)
    gathered = options["kind"] in ("int8", "top_k")
    assert {each.collective for each in found.rounds} == {"all_gather" if gathered else "all_reduce"}


def test_a_matrix_is_compressed_where_factors_have_less_than_half_of_it() -> None:
    """Torch's rule: 2 r (m + c) < m c."""
    rank_4 = Compression(kind="power_sgd", rank=4)
    assert rank_4.factors((16, 16)) is None  # 2 * 4 * 32 = 256
    assert rank_4.factors((17, 16)) == (17, 16, 4)  # 264 < 272
    assert rank_4.factors((17, 4, 4)) == (17, 16, 4)
    assert rank_4.factors((1000,)) is None


def plan_of(options: dict[str, Any], *, overlap: bool = True) -> Any:
    sync = {"bucket": "100 KB", "overlap": overlap, "compression": options}
    communication = {"library": "ideal", "algorithm": "ring"}
    return make(star(3), partition={"data": 3}, sync=sync, communication=communication)


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_programs_communicate_what_the_exchange_says(options: dict[str, Any]) -> None:
    programs = lower(plan_of(options)[0])
    assert isinstance(programs, DataParallel)
    assert len(programs.buckets) > 1
    effects = first_steps(programs.program(0))
    found = sorted((e.kind, e.size_bytes, e.dtype) for e in effects if isinstance(e, Collective))
    expected = [r for b in programs.buckets for r in programs.exchange(b).rounds]
    assert found == sorted((r.collective, r.size_bytes, r.dtype) for r in expected)
    names = [e.operation for e in effects if isinstance(e, Collective | Compute)]
    assert len(names) == len(set(names))


def test_half_the_bytes_take_half_the_time() -> None:
    kinds = ({"kind": kind} for kind in ("none", "fp16"))
    plain, half = (predict(*plan_of(kind, overlap=False)).timeline.collectives_by_step_s() for kind in kinds)
    assert list(plain) == list(half)
    latency_s = 4 * 2 * 5e-6
    for name, times_s in plain.items():
        assert half[name][0] - latency_s == pytest.approx((times_s[0] - latency_s) / 2, rel=1e-6)


def test_encoding_and_decoding_take_their_kernels_time() -> None:
    plan, topology = plan_of({"kind": "fp16"})
    timeline = predict(plan, topology).timeline
    programs = lower(plan)
    assert isinstance(programs, DataParallel)
    elements = [bucket.size_bytes // 4 for bucket in programs.buckets]
    expected_s = sum(e / 100e9 + 6 * e / 50e9 + 5e-6 for e in elements)
    assert timeline.phases_s()["encode"] == pytest.approx(expected_s, rel=1e-9)
    assert timeline.phases_s()["decode"] == pytest.approx(expected_s, rel=1e-9)


def test_rounds_do_not_overlap_where_the_plan_says_so() -> None:
    sync = {"bucket": "100 KB", "overlap": False, "compression": {"kind": "int8"}}
    plan, _ = make(star(3), partition={"data": 3}, sync=sync)
    effects = [e for e in first_steps(lower(plan).program(0)) if not isinstance(e, Compute) or e.phase == "encode"]
    under_way = [isinstance(e, Collective) - (type(e).__name__ == "Wait") for e in effects]
    assert max(np.cumsum(under_way)) == 1


def served(options: dict[str, Any]) -> ParameterServer:
    sync = {"method": "parameter_server", "servers": {"count": 2}, "compression": options}
    programs = lower(make(star(5), partition={"data": 3}, sync=sync)[0])
    assert isinstance(programs, ParameterServer)
    return programs


@pytest.mark.parametrize("options", [options for options in KINDS if options["kind"] != "power_sgd"], ids=name_of)
def test_the_push_shrinks_and_the_pull_stays(options: dict[str, Any]) -> None:
    programs = served(options)
    transfers = [e for e in first_steps(programs.program(0)) if isinstance(e, Transfer)]
    for server in (3, 4):
        elements = sum(map(len, programs.keys[server - 3]))
        kept = int(0.1 * elements)
        push = {"fp16": 2 * elements, "bf16": 2 * elements, "int8": elements + 8}
        push |= {"top_k": 8 * kept, "random_k": 4 * kept}
        sizes = {e.lane: e.size_bytes for e in transfers if server in (e.source, e.target)}
        assert sizes == {"gradients": push.get(options["kind"], 4 * elements), "parameters": 4 * elements}
    takes = [e for e in first_steps(programs.program(4)) if isinstance(e, Transfer) and e.announced]
    assert {e.size_bytes for e in takes} == {sizes["gradients"]}


REFUSED = {
    "ratio of fp16": ({"kind": "fp16", "ratio": 0.5}, {}, "sync.compression.ratio applies to kind top_k, random_k"),
    "rank of int8": ({"kind": "int8", "rank": 2}, {}, "sync.compression.rank applies to kind power_sgd"),
    "feedback of bf16": ({"kind": "bf16", "error_feedback": False}, {}, "sync.compression.error_feedback applies"),
    "nothing kept": ({"kind": "top_k", "ratio": 0.0}, {}, "greater than 0"),
    "local SGD": ({"kind": "fp16"}, {"method": "local_sgd"}, "which sync.method local_sgd does not send"),
    "factors for servers": ({"kind": "power_sgd"}, {"method": "parameter_server"}, "set sync.method to all_reduce"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_senseless_combinations_are_refused(case: str) -> None:
    options, sync, words = REFUSED[case]
    with pytest.raises(ValidationError, match=words):
        make(star(4), partition={"data": 2}, sync=sync | {"compression": options})


def test_hybrid_plans_and_benchmarks_are_refused() -> None:
    sync = {"compression": {"kind": "fp16"}}
    gpt = {"kind": "gpt", "layers": 2, "heads": 2, "width": 16, "context": 8, "batch": 4}
    with pytest.raises(ValidationError, match=r"excludes partition\.tensor: leave one out"):
        make(star(4), workload=gpt, partition={"data": 2, "tensor": 2}, sync=sync)
    bench = {"kind": "collective", "collective": "all_reduce", "size": "1 MiB"}
    with pytest.raises(ValidationError, match="needs a workload that trains"):
        make(star(4), workload=bench, partition={"data": 2}, sync=sync)


@pytest.fixture
def scenario() -> Scenario:
    return load_scenario("topk-slow-network")


def test_the_check_and_the_inputs_name_the_compression(scenario: Scenario) -> None:
    lines = dict(plan_lines(scenario))
    assert lines["compression"].startswith("top_k, 1 % of the elements, with error feedback: ")
    inputs = {each.name: each for each in assumptions(scenario, None, {})}
    assert inputs["compression of gradients"].value == "top_k, 1 % of the elements, with error feedback"
    assert "for 1.15 MiB of gradients" in inputs["compression of gradients"].note


def test_kernels_that_a_profile_lacks_are_named(profile: Profile, tmp_path: Any) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "workload: {kind: mlp, hidden: [64], batch: 8}\npartition: {data: 2}\n"
        "sync: {compression: {kind: fp16}}\ntopology: {builder: one_host, devices: 2, device: cpu}\n"
    )
    curves = profile.devices["cpu"]
    older = {name: curve for name, curve in curves.kernels.items() if not name.startswith("fp16_")}
    without = profile.model_copy(update={"devices": {"cpu": curves.model_copy(update={"kernels": older})}})
    loaded = load_scenario(str(path))
    (found,) = [e for e in assumptions(loaded, without, {}) if e.name == "kernels that were not measured"]
    assert (found.value, found.origin) == ("fp16_encode, fp16_decode", "assumed")
    assert "twinstep calibrate" in found.note


def test_memory_counts_buffers_and_residuals() -> None:
    parts = lower(plan_of({"kind": "random_k", "ratio": 0.5})[0]).memory_bytes(0)
    plain = lower(plan_of({"kind": "none"})[0]).memory_bytes(0)
    assert parts["compression"] == pytest.approx(1.5 * plain["gradients"], rel=1e-3)
    assert parts["total"] - plain["total"] == parts["compression"]


def test_a_bandwidth_sets_what_a_push_takes() -> None:
    """One worker, one server: a push of half the bytes takes half of the time."""
    times = []
    for kind in ("none", "fp16"):
        sync = {"method": "parameter_server", "compression": {"kind": kind}}
        plan, topology = make(star(2), partition={"data": 1}, sync=sync, communication={"library": "ideal"})
        programs = lower(plan)
        assert isinstance(programs, ParameterServer)
        found = predict(plan, topology).timeline.collectives_by_step_s()["send gradients[hop=0>1]"]
        times.append(found[0] - programs.exchanges[0].size_bytes / BYTES_PER_S)
    assert times == pytest.approx([1e-5, 1e-5], rel=1e-3)


def test_kernels_have_positive_sizes() -> None:
    found = exchange(Compression(kind="power_sgd", rank=2), SHAPES, 2)
    assert Kernel("power_sgd_project", (40, 30, 2)) in found.encode
    assert Kernel("power_sgd_project", (30, 40, 2)) in found.encode
    assert found.decode[0] == Kernel("power_sgd_expand", (40, 30, 2))


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_real_collectives_carry_these_bytes(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without contents, too, whole buffers have the bytes of the closed form, whatever divides them."""
    found = []

    def note(tensor: torch.Tensor, *_: Any, **__: Any) -> object:
        found.append(tensor.nbytes)
        return object()

    monkeypatch.setattr(calls.dist, "all_reduce", note)
    monkeypatch.setattr(calls, "_all_gather", note)
    begin = calls.Calls({"data": calls.Joined(None, (0, 1, 2), 0)}).begin  # type: ignore[arg-type]
    rounds = exchange(Compression(**options), SHAPES, ranks=3).rounds
    for number, each in enumerate(rounds):
        begin(Collective(each.collective, "data", each.size_bytes, "data", 0, round=number, dtype=each.dtype))
    assert found == [each.size_bytes for each in rounds]


def test_real_messages_carry_these_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(calls.dist, "isend", lambda tensor, *_, **__: found.append(tensor.nbytes) or object())
    begin = calls.Calls({"servers": calls.Joined(None, (0, 1), 0)}).begin  # type: ignore[arg-type]
    for size_bytes in (1001, 1002, 1004):
        begin(Transfer("send", "servers", 0, 1, size_bytes, "gradients"))
    assert found == [1001, 1002, 1004]
