"""Lines: a timeline as JSON, one object a line, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache

from twinstep.spans import Floats, Span, SpanTable
from twinstep.timeline import Observation, Timeline, Twins


def to_json_lines(timeline: Timeline) -> Iterator[str]:
    """Write a timeline, one JSON object a line: first its header, then each span, then each observation.

    >>> list(to_json_lines(Timeline((), ranks=2, warmup_steps=1)))
    ['{"ranks": 2, "warmup_steps": 1}']
    """
    header: dict[str, object] = {"ranks": timeline.ranks, "warmup_steps": timeline.warmup_steps}
    header |= {"twins": timeline.folds} if timeline.folds else {}
    header |= {"period": timeline.period} if timeline.period > 1 else {}
    header |= {"of_steps": timeline.of_steps} if timeline.of_steps else {}
    header |= {"lost": timeline.lost} if timeline.lost else {}
    yield json.dumps(header | ({"reactive": timeline.reactive} if timeline.reactive else {}))
    for begin in range(0, len(timeline.table), _LINES_AT_ONCE):
        yield from _span_lines(timeline.table[begin : begin + _LINES_AT_ONCE])
    yield from map(_observation_line, timeline.observations)


_LINES_AT_ONCE = 2**15
_text = cache(json.dumps)
"""Names repeat: they are quoted once."""


def _span_lines(spans: SpanTable) -> list[str]:
    """Write spans as JSON, which is most of what is done for a long timeline: what a kind has in common once."""
    ends = [
        (
            f'"lane": {_text(kind.lane)}, "operation": {_text(kind.operation)}, "phase": {_text(kind.phase)}',
            f'"size_bytes": {kind.size_bytes}, "group": {_text(kind.group)}}}',
        )
        for kind in spans.kinds
    ]
    times_s = (_numbers(spans.start_s), _numbers(spans.end_s))
    columns = (spans.rank.tolist(), spans.step.tolist(), spans.kind.tolist(), *times_s)
    return [
        f'{{"rank": {rank}, "step": {step}, {ends[kind][0]}, "start_s": {start_s}, "end_s": {end_s}, {ends[kind][1]}'
        for rank, step, kind, start_s, end_s in zip(*columns, strict=True)
    ]


def _numbers(values: Floats) -> list[str]:
    """Write numbers, all in one go."""
    return repr(values.tolist())[1:-1].split(", ")


def _observation_line(observation: Observation) -> str:
    rank, step, time_s, name, value = observation
    number = str(value) if type(value) is int else json.dumps(value)
    return f'{{"rank": {rank}, "step": {step}, "time_s": {time_s!r}, "name": {_text(name)}, "value": {number}}}'


def from_json_lines(lines: Iterable[str]) -> Timeline:
    """Read what `to_json_lines` wrote; the two are inverses.

    Raises KeyError, TypeError or json.JSONDecodeError where the lines are something else.
    """
    header, *rest = (json.loads(line) for line in lines)
    return Timeline(
        spans=tuple(Span(**record) for record in rest if "value" not in record),
        ranks=header["ranks"],
        warmup_steps=header["warmup_steps"],
        folds=tuple(Twins(representative, tuple(ranks)) for representative, ranks in header.get("twins", ())),
        observations=tuple(Observation(**record) for record in rest if "value" in record),
        reactive=tuple(header.get("reactive", ())),
        lost=tuple(header.get("lost", ())),
        of_steps=header.get("of_steps", 0),
        period=header.get("period", 1),
    )
