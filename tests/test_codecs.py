"""Codecs of compressed gradients: what is lost and what is kept, by NumPy and by torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.small_plans import make, star
from tests.test_compression import (
    ELEMENTS,
    KEEPING,
    KINDS,
    dtype_of,
    gradients,
    name_of,
    ranks_of,
    together,
)

from twinstep import bfloat16
from twinstep.compression import Compression
from twinstep.exec import codecs as by_torch
from twinstep.learning.codecs import Message, Place, codec
from twinstep.programs import DataParallel, lower
from twinstep.programs.exchange import exchange


@pytest.mark.parametrize("options", KEEPING, ids=name_of)
def test_what_is_sent_and_what_is_kept_are_all_gradients(options: dict[str, Any]) -> None:
    ranks, steps = 3, 6
    own, drawn = ranks_of(options, ranks), gradients(ranks, steps)
    sent = np.zeros(ELEMENTS)
    for step in range(steps):
        together(own, step, drawn[step])
        sent += own[0].gradient
        kept = np.sum([each.residual for each in own], axis=0)
        assert np.abs(kept).max() > 0.1
        assert sent + kept == pytest.approx(drawn[: step + 1].sum(axis=(0, 1)), abs=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_all_ranks_decode_the_same(options: dict[str, Any]) -> None:
    own = ranks_of(options, 3)
    for step, drawn in enumerate(gradients(3, 2)):
        together(own, step, drawn, dtype_of(options))
    assert np.array_equal(own[0].gradient, own[1].gradient)
    assert np.array_equal(own[0].gradient, own[2].gradient)


def test_the_largest_elements_are_sent() -> None:
    (own,) = ranks_of({"kind": "top_k", "ratio": 0.1, "error_feedback": False}, 1)
    gradient = gradients(1, 1)[0]
    together([own], 0, gradient)
    kept = int(0.1 * ELEMENTS)
    smallest = np.sort(np.abs(gradient[0]))[-kept]
    assert np.array_equal(own.gradient, np.where(np.abs(gradient[0]) >= smallest, gradient[0], 0))


def test_random_elements_are_unbiased_without_feedback() -> None:
    """Each is sent with the probability k/E, E/k times as large: the mean of N draws is within 5 sigma."""
    options = {"kind": "random_k", "ratio": 0.25, "error_feedback": False}
    (own,) = ranks_of(options, 1)
    gradient = gradients(1, 1)[0]
    kept, times = int(0.25 * ELEMENTS), 500
    total = np.zeros(ELEMENTS)
    for step in range(times):
        together([own], step, gradient)
        sent = np.flatnonzero(own.gradient)
        assert len(sent) == kept
        assert np.allclose(own.gradient[sent], gradient[0][sent] * ELEMENTS / kept, rtol=1e-6, atol=0)
        total += own.gradient
    rate = kept / ELEMENTS
    sigma = np.abs(gradient[0]) * np.sqrt((1 - rate) / rate / times)
    assert (np.abs(total / times - gradient[0]) < 5 * sigma).all()
    assert (np.abs(total / times - gradient[0]) > sigma / 2).any()


FINITE = st.floats(-1e4, 1e4, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=FINITE))
def test_bytes_are_off_by_half_a_step_at_most(values: np.ndarray[Any, Any]) -> None:
    own = codec(Compression(kind="int8"), [(len(values),)], Place(1, 0, (0, 0)))
    own.gradient[:] = values
    own.encode(0, 0)
    own.encode(1, 0)
    own.decode(0)
    step = max(max(values.max(), 0) - min(values.min(), 0), 255 * np.finfo(np.float32).eps) / 255
    assert np.abs(own.gradient - values).max() <= step * (0.5 + 1e-4)


@given(arrays.arrays(np.float32, 20, elements=st.floats(width=32)))
def test_bfloat16_rounds_as_torch_does(values: np.ndarray[Any, Any]) -> None:
    expected = torch.from_numpy(values).to(torch.bfloat16)
    ours = torch.from_numpy(bfloat16.to_floats(bfloat16.to_bits(values)))
    assert torch.equal(torch.nan_to_num(ours, 7.0), torch.nan_to_num(expected.to(torch.float32), 7.0))


@given(arrays.arrays(np.float32, 20, elements=FINITE))
def test_fp16_rounds_as_torch_does(values: np.ndarray[Any, Any]) -> None:
    own = codec(Compression(kind="fp16"), [(20,)], Place(1, 0, (0, 0)))
    own.gradient[:] = values
    own.encode(0, 0)
    own.decode(0)
    assert np.array_equal(own.gradient, torch.from_numpy(values).half().float().numpy())


@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_factors_of_a_matrix_of_no_higher_rank_are_exact(rank: int) -> None:
    generator = np.random.default_rng(2)
    matrix = generator.standard_normal((40, rank)) @ generator.standard_normal((rank, 30))
    own = codec(Compression(kind="power_sgd", rank=4), [(40, 30)], Place(1, 0, (0, 0)))
    together([own], 0, matrix.reshape(1, -1).astype(np.float32))
    assert own.gradient == pytest.approx(matrix.ravel(), abs=1e-4)
    random = generator.standard_normal((1, 1200)).astype(np.float32)
    together([own], 1, random)
    assert np.abs(own.gradient - random).max() > 0.1


def torch_codecs(options: dict[str, Any], ranks: int) -> tuple[list[by_torch.Codec], list[torch.Tensor], Any]:
    sync = {"compression": options}
    workload = {"kind": "mlp", "hidden": [40], "batch": 12}
    plan, _ = make(star(ranks), workload=workload, partition={"data": ranks}, sync=sync)
    programs = lower(plan)
    assert isinstance(programs, DataParallel)
    (bucket,) = programs.buckets
    flats = [torch.zeros(bucket.size_bytes // 4) for _ in range(ranks)]
    return [by_torch.codec(programs.plan, rank, bucket, flat) for rank, flat in enumerate(flats)], flats, bucket


@pytest.mark.parametrize("options", KINDS, ids=name_of)
def test_numpy_and_torch_do_the_same(options: dict[str, Any]) -> None:
    theirs, flats, bucket = torch_codecs(options, 2)
    ours = [codec(Compression(**options), [p.shape for p in bucket.parameters], Place(2, r, (0, 0))) for r in (0, 1)]
    generator = np.random.default_rng(3)
    for step in range(4):
        drawn = generator.standard_normal((2, len(flats[0]))).astype(np.float32)
        together(ours, step, drawn, dtype_of(options))
        for flat, gradient in zip(flats, drawn, strict=True):
            flat.copy_(torch.from_numpy(gradient))
        for number in range(len(theirs[0].payloads)):
            for each in theirs:
                each.encode(number, step)
            payloads = [each.payloads[number] for each in theirs]
            summed = torch.stack([p[i] for i, p in enumerate(payloads)]) if payloads[0].ndim == 2 else sum(payloads)
            for payload in payloads:
                payload.copy_(summed)  # type: ignore[arg-type]
        for each in theirs:
            each.decode()
        assert ours[1].gradient == pytest.approx(flats[1].numpy(), abs=1e-4)


@pytest.mark.parametrize("options", [options for options in KINDS if options["kind"] != "power_sgd"], ids=name_of)
def test_a_message_carries_all_rounds(options: dict[str, Any]) -> None:
    one, other = (Message(codec(Compression(**options), [(50,)], Place(1, 0, (0, 0)))) for _ in range(2))
    gradient = gradients(1, 1)[0, 0, :50]
    one.gradient[:] = gradient
    one.encode(3)
    assert one.contents.nbytes == exchange(Compression(**options), [(50,)], 1).size_bytes
    other.contents[:] = one.contents
    other.decode(3)
    limit = {"none": 0, "fp16": 1e-3, "bf16": 1e-2, "int8": 0.02}.get(options["kind"], 20)
    assert np.abs(other.gradient - gradient).max() <= limit
    assert np.abs(other.gradient).max() > 0
