"""What the recorder sees of torch: operations of process groups, whoever issues them, on two ranks with gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from tests.ranks import run_ranks
from torch import Tensor

from twinstep.exec.board import Board
from twinstep.exec.native.clock import HostClock
from twinstep.exec.native.collectives import SeenCollectives
from twinstep.exec.native.group_names import group_names
from twinstep.exec.native.recorder import Recorder
from twinstep.exec.pending import Record
from twinstep.programs import Groups

pytestmark = pytest.mark.slow

RANKS = 2
FLOATS = 6
SIZE = 4 * FLOATS
GROUPS = {kind: Groups(kind, np.array([[0, 1]])) for kind in ("pipeline", "embedding")}


def ones(floats: int = FLOATS) -> Tensor:
    return torch.ones(floats)


def message(rank: int) -> None:
    taken = torch.zeros(FLOATS)
    ends = [dist.P2POp(dist.isend, ones() + rank, 1 - rank), dist.P2POp(dist.irecv, taken, 1 - rank)]
    for work in dist.batch_isend_irecv(ends):
        work.wait()
    assert taken[0] == 2 - rank


def later(rank: int) -> None:
    summed = ones()
    work = dist.all_reduce(summed, async_op=True)
    assert work is not None
    work.wait()
    assert summed[0] == RANKS


def without_group(rank: int) -> None:
    mine = dist.new_group([rank], use_local_synchronization=True)
    dist.all_reduce(ones(), group=mine)


# What is done, and kind, bytes and group of what is recorded.
CALLS: dict[str, tuple[Callable[[int], object], list[tuple[str, int, str]]]] = {
    "all_reduce": (lambda rank: dist.all_reduce(ones()), [("all_reduce", SIZE, "embedding")]),
    "asynchronous": (later, [("all_reduce", SIZE, "embedding")]),
    "functional": (
        lambda rank: functional.all_reduce(ones(), "sum", dist.group.WORLD) + 1,
        [("all_reduce", SIZE, "embedding")],
    ),
    "functional gather": (
        lambda rank: functional.all_gather_tensor(ones(), 0, dist.group.WORLD) + 1,
        [("all_gather", RANKS * SIZE, "embedding")],
    ),
    "functional scatter": (
        lambda rank: functional.reduce_scatter_tensor(ones(), "sum", 0, dist.group.WORLD) + 1,
        [("reduce_scatter", SIZE, "embedding")],
    ),
    "all_gather": (
        lambda rank: dist.all_gather([ones() for _ in range(RANKS)], ones()),
        [("all_gather", RANKS * SIZE, "embedding")],
    ),
    "all_to_all": (lambda rank: dist.all_to_all_single(ones(), ones()), [("all_to_all", SIZE, "pipeline")]),
    "broadcast": (lambda rank: dist.broadcast(ones(), 0), [("broadcast", SIZE, "embedding")]),
    "gather": (
        lambda rank: dist.gather(ones(), [ones() for _ in range(RANKS)] if rank == 0 else None),
        [("gather", RANKS * SIZE, "embedding")],
    ),
    "scatter": (
        lambda rank: dist.scatter(ones(), [ones() for _ in range(RANKS)] if rank == 0 else None),
        [("scatter", RANKS * SIZE, "embedding")],
    ),
    "messages": (message, [("recv message", SIZE, "pipeline"), ("send message", SIZE, "pipeline")]),
    "group that the plan does not know": (without_group, [("all_reduce", SIZE, "ranks 0")]),
}


def record_all(rank: int, folder: Path) -> list[Record]:
    """Do each call in a step of its own, and one that is outside of all steps."""
    recorder = Recorder(HostClock(), Board(folder / f"board-{rank}", 1).seat(0))
    dist.all_reduce(ones())
    with SeenCollectives(recorder, group_names(GROUPS, rank)):
        dist.all_reduce(ones())
        for step, (call, _) in enumerate(CALLS.values()):
            recorder.begin_step(step)
            recorder.start("forward", 0)
            call(rank)
            recorder.end_step()
    dist.all_reduce(ones())
    return recorder.records()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[list[Record]]:
    """Give the records of each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(record_all, RANKS, folder, folder)


@pytest.mark.parametrize("name", CALLS)
def test_operations_are_seen_with_kind_bytes_and_group(records: list[list[Record]], name: str) -> None:
    step = list(CALLS).index(name)
    expected = CALLS[name][1]
    seen = [
        (operation.partition("[")[0], size_bytes, group)
        for at, _, operation, phase, _, _, size_bytes, group in records[0]
        if (at, phase) == (step, "communication")
    ]
    assert sorted(seen) == expected


@pytest.mark.parametrize("name", CALLS)
def test_whoever_waits_does_so_until_the_operation_is_complete(records: list[list[Record]], name: str) -> None:
    step = list(CALLS).index(name)
    for own in records:
        ends = {f"wait[{record[2]}]": record[5] for record in own if (record[0], record[3]) == (step, "communication")}
        waits = {record[2]: record[5] for record in own if (record[0], record[3]) == (step, "exposed_communication")}
        assert waits.keys() == ends.keys()
        assert all(waits[operation] >= ends[operation] for operation in waits)


def test_messages_have_their_ends_in_their_names(records: list[list[Record]]) -> None:
    hops = [sorted(record[2] for record in own if "message" in record[2] and record[3] == "communication")
            for own in records]  # fmt: skip
    assert hops[0] == [f"{kind} message[group=pipeline,hop={hop},number=0]" for kind, hop in
                       (("recv", "1>0"), ("send", "0>1"))]  # fmt: skip
    assert hops[1] == [f"{kind} message[group=pipeline,hop={hop},number=0]" for kind, hop in
                       (("recv", "0>1"), ("send", "1>0"))]  # fmt: skip
