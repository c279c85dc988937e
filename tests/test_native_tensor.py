"""Torch's own tensor, sequence and context parallelism: they train as one process does, and send what is written down.

The formulas here are those of the docstrings of `twinstep.exec.native.tensor` and `context`; what torch does is noted
by a dispatch mode in each rank, in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.native_ranks import (
    BATCH,
    CONTEXT,
    HEADS,
    LAYERS,
    RANKS,
    WIDTH,
    Case,
    Outcome,
    Sent,
    train_alone,
    train_in_ranks,
)
from torch import Tensor
from torch.testing import assert_close

from twinstep.exec.models import Block, causal_attention
from twinstep.workloads.gpt import VOCABULARY

TOLERANCE = 1e-4
CASES = {
    "tp 2": Case(tensor=2),
    "tp 4": Case(tensor=4, optimizer="momentum"),
    "tp+sp 2": Case(tensor=2, sequence_parallel=True, microbatches=2),
    "tp+sp 4": Case(tensor=4, sequence_parallel=True, optimizer="momentum"),
    "tp+sp 2, as torch leaves it": Case(tensor=2, sequence_parallel=True, completes=False),
    "replicate x tp": Case(tensor=2, wrapper="replicate"),
    "replicate x tp+sp": Case(tensor=2, sequence_parallel=True, wrapper="replicate", optimizer="momentum"),
    "fsdp x tp": Case(tensor=2, wrapper="fully_shard"),
    "fsdp x tp+sp": Case(tensor=2, sequence_parallel=True, wrapper="fully_shard", microbatches=3),
    "fsdp x cp 2": Case(context=2, wrapper="fully_shard"),
    "cp 4": Case(context=4, wrapper="replicate", optimizer="momentum"),
    "cp x tp+sp": Case(context=2, tensor=2, sequence_parallel=True, wrapper="fully_shard", microbatches=2),
}
slow = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return train_in_ranks(CASES, tmp_path_factory.mktemp("native"))


class TestRanks:
    """What four processes have done; they start once for all tests."""

    pytestmark = slow

    @pytest.mark.parametrize("name", CASES)
    def test_ranks_learn_what_one_process_learns(self, name: str, found: dict[str, Outcome]) -> None:
        alone, ranks = train_alone(CASES[name]), found[name]
        assert alone.losses[-1] < alone.losses[0] - 0.01, "nothing is learnt"
        assert ranks.losses == pytest.approx(alone.losses, abs=TOLERANCE)
        assert ranks.parameters.keys() == alone.parameters.keys()
        for parameter, expected in alone.parameters.items():
            assert_close(ranks.parameters[parameter], expected, rtol=0, atol=TOLERANCE, msg=parameter)

    @pytest.mark.parametrize("name", CASES)
    def test_torch_sends_what_is_written_down(self, name: str, found: dict[str, Outcome]) -> None:
        case, sent = CASES[name], found[name].sent
        for number in range(case.microbatches):
            is_last = number == case.microbatches - 1
            assert sent.get(f"forward {number}", []) == [*forward(case)]
            assert sent.get(f"backward {number}", []) == [*backward(case, is_last)]
        assert sent.get("optimizer", []) == [*optimizer(case)]


def tokens(case: Case) -> int:
    """Count the tokens of a microbatch that a row of `tensor` has together."""
    return BATCH // case.rows // case.microbatches * CONTEXT // case.context


def unit(case: Case) -> int:
    """Count the bytes of a block's parameters on a tensor-parallel rank."""
    return 4 * (12 * WIDTH**2 // case.tensor + 2 * WIDTH)


def root(case: Case) -> int:
    """Count those of what is in no block; embedding and head share their weight."""
    return 4 * (VOCABULARY * WIDTH // case.tensor + CONTEXT * WIDTH + WIDTH)


def samples(case: Case) -> str:
    """Name the group of those who have the same parameters."""
    data = RANKS // case.tensor // case.context
    if case.context == 1:
        return "data"
    return "samples" if data > 1 else "context"


def gathered(case: Case) -> Iterator[Sent]:
    if case.sequence_parallel:
        yield Sent("all_gather", 4 * tokens(case) * WIDTH, "tensor")


def summed(case: Case) -> Iterator[Sent]:
    if case.tensor > 1:
        kind = "reduce_scatter" if case.sequence_parallel else "all_reduce"
        yield Sent(kind, 4 * tokens(case) * WIDTH, "tensor")


def shifted(case: Case, times: int) -> list[Sent]:
    return [Sent("all_to_all", 2 * 4 * tokens(case) * WIDTH // case.tensor, "context")] * times


def parameters_gathered(case: Case, size_bytes: int) -> Iterator[Sent]:
    if case.wrapper == "fully_shard":
        yield Sent("all_gather", size_bytes, samples(case))


def reduced(case: Case, size_bytes: int, *own_tokens: int) -> Iterator[Sent]:
    """Give how a unit's gradients are reduced; those of a rank's own tokens, in floats, are summed before."""
    if case.sequence_parallel:
        yield from (Sent("all_reduce", 4 * floats, "tensor") for floats in own_tokens)
    yield Sent("reduce_scatter" if case.wrapper == "fully_shard" else "all_reduce", size_bytes, samples(case))


def forward(case: Case) -> Iterator[Sent]:
    yield from parameters_gathered(case, root(case))
    yield from summed(case)
    for _ in range(LAYERS):
        yield from parameters_gathered(case, unit(case))
        yield from (*gathered(case), *shifted(case, case.context - 1), *summed(case))
        yield from (*gathered(case), *summed(case))
    yield from gathered(case)
    if case.tensor > 1:
        yield from [Sent("all_reduce", 4 * tokens(case), "tensor")] * 3


def backward(case: Case, is_last: bool) -> Iterator[Sent]:
    yield from parameters_gathered(case, unit(case))
    yield from summed(case)
    reduces = is_last and case.wrapper
    for block in reversed(range(LAYERS)):
        if block > 0:  # of the block that comes next
            yield from parameters_gathered(case, unit(case))
        yield from (*gathered(case), *summed(case))
        shifts = 2 * case.context - 1 if case.context > 1 else 0
        yield from (*gathered(case), *shifted(case, shifts), *summed(case))
        if reduces:
            yield from reduced(case, unit(case), WIDTH, WIDTH)
    yield from gathered(case)
    if reduces:
        yield from reduced(case, root(case), CONTEXT * WIDTH, WIDTH)


def optimizer(case: Case) -> Iterator[Sent]:
    if case.sequence_parallel and not case.wrapper:
        times = 1 if case.completes else 3  # AdamW reads a gradient three times
        for floats in (CONTEXT * WIDTH, *[WIDTH] * (2 * LAYERS + 1)):
            yield from [Sent("all_reduce", 4 * floats, "tensor")] * times


@pytest.mark.parametrize("ranks", [2, 4])
def test_consecutive_rows_are_whole_heads(ranks: int) -> None:
    block = Block(HEADS, WIDTH)
    x = torch.randn(3, 5, WIDTH)
    rows, columns = block.qkv.weight.chunk(ranks), block.project.weight.chunk(ranks, dim=1)
    parts = [attended(x, into, out_of) for into, out_of in zip(rows, columns, strict=True)]
    assert_close(sum(parts), attended(x, block.qkv.weight, block.project.weight), rtol=1e-5, atol=1e-6)


def attended(x: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
    return causal_attention(x @ into.T, WIDTH // HEADS) @ out_of.T
