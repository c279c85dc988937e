"""A crew of ranks that run many plans by the native engine, one after the other: they import torch and meet once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from tests.ranks import run_ranks
from torch import Tensor

from twinstep.exec.board import Board, Seat
from twinstep.exec.rank import Records, _to_span
from twinstep.exec.records import timeline_of
from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.timeline import Span, Timeline


class Trained(NamedTuple):
    """What a plan's ranks have done and learnt."""

    timeline: Timeline
    losses: Tensor
    """Of all steps, of the global batch."""
    parameters: dict[str, Tensor]
    """After the last step, as rank 0 has put them together."""


class _OfRank(NamedTuple):
    spans: list[Span]
    losses: Tensor
    parameters: dict[str, Tensor]


def train(plans: Mapping[str, Plan], folder: Path) -> dict[str, Trained]:
    """Run plans of equally many ranks in processes of their own."""
    (ranks,) = {plan.ranks for plan in plans.values()}
    found = run_ranks(_train, ranks, folder, dict(plans), folder)
    return {name: _together(plan, [each[name] for each in found]) for name, plan in plans.items()}


def _together(plan: Plan, found: list[_OfRank]) -> Trained:
    records = {rank: Records(each.spans, [], (), None) for rank, each in enumerate(found)}
    losses = torch.stack([each.losses for each in found]).sum(0)
    return Trained(timeline_of(plan, records), losses, found[0].parameters)


def _train(rank: int, plans: dict[str, Plan], folder: Path) -> dict[str, _OfRank]:
    ranks = next(iter(plans.values())).ranks
    seat = Board(folder / "board", ranks).seat(rank)
    found = {}
    for name, plan in plans.items():
        try:
            found[name] = _run(plan, rank, seat)
        except Exception as error:
            error.add_note(f"in the plan {name}")
            raise
    return found


def _run(plan: Plan, rank: int, seat: Seat) -> _OfRank:
    from twinstep.exec.native.training import NativeTraining  # a deprecation in torch would end pytest

    training = NativeTraining(lower(plan), rank, torch.device("cpu"), seat)
    training.run()
    spans = [_to_span(rank, 0, record) for record in training.records()]
    return _OfRank(spans, training.losses(), dict(training.parameters()))
