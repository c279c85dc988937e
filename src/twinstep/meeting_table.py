"""Meetings: the communications of a run, each put together from the spans of all who took part in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twinstep.spans import Floats, Ints, Kind, SpanTable, groups_of


class Exchange(NamedTuple):
    """What meetings of all steps have in common; sender and receiver of a message meet under the sender's name."""

    operation: str
    group: str
    size_bytes: int


class MeetingTable(NamedTuple):
    """Meetings by column, in the order of their first spans."""

    exchange: Ints
    """The position in `exchanges`."""
    step: Ints
    time_s: Floats
    """From the last rank's issue to the last end, in seconds."""
    exchanges: tuple[Exchange, ...]
    """What kinds of spans are part of; some may have no meetings."""


def meetings(spans: SpanTable, first_step: int) -> MeetingTable:
    """Put the communications together that belong to `first_step` or a later one.

    The n-th message that is received on a channel is the n-th that was sent, and belongs to the sender's step.
    """
    spans = spans.chosen(spans.has(lambda kind: kind.phase == "communication"))
    step = _steps(spans)
    kept = step >= first_step
    spans, step = spans.chosen(kept), step[kept]
    exchanges = tuple(sorted({_exchange(kind) for kind in spans.kinds}))
    exchange = spans.numbers(_exchange)
    groups = groups_of(exchange, step)
    issued_s, end_s = (np.full(groups.size, -np.inf) for _ in range(2))
    np.maximum.at(issued_s, groups.number, spans.start_s)
    np.maximum.at(end_s, groups.number, spans.end_s)
    return MeetingTable(exchange[groups.first], step[groups.first], end_s - issued_s, exchanges)


def _exchange(kind: Kind) -> Exchange:
    return Exchange(_as_sent(kind.operation), kind.group, kind.size_bytes)


def _as_sent(operation: str) -> str:
    return f"send {operation.removeprefix('recv ')}" if operation.startswith("recv ") else operation


def _steps(spans: SpanTable) -> Ints:
    """Give each communication's step, which for a receive is that of its send."""
    channel = spans.numbers(lambda kind: (_as_sent(kind.operation), kind.group))
    sent, received = (np.flatnonzero(_is(spans, side)) for side in ("send ", "recv "))
    step = spans.step.copy()
    if len(sent) and len(received):
        sent = sent[np.argsort(channel[sent], kind="stable")]
        first, last = (np.searchsorted(channel[sent], channel[received], side) for side in ("left", "right"))
        place = first + _turns(channel[received])
        known = place < last
        step[received[known]] = spans.step[sent[place[known]]]
    return step


def _is(spans: SpanTable, side: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return spans.has(lambda kind: kind.operation.startswith(side))


def _turns(channel: Ints) -> Ints:
    """Count for each entry how many of the same channel came before.

    >>> _turns(np.array([5, 2, 5])).tolist()
    [0, 0, 1]
    """
    order = np.argsort(channel, kind="stable")
    ordered = channel[order]
    turns = np.empty(len(order), dtype=np.int64)
    turns[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return turns
