"""Lines: a timeline as JSON, one object a line, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache

from twinstep.timeline import Observation, Span, Timeline, Twins


def to_json_lines(timeline: Timeline) -> Iterator[str]:
    """Write a timeline, one JSON object a line: first its header, then each span, then each observation.

    >>> list(to_json_lines(Timeline((), ranks=2, warmup_steps=1)))
    ['{"ranks": 2, "warmup_steps": 1}']
    """
    header: dict[str, object] = {"ranks": timeline.ranks, "warmup_steps": timeline.warmup_steps}
    header |= {"twins": timeline.folds} if timeline.folds else {}
    header |= {"period": timeline.period} if timeline.period > 1 else {}
    header |= {"lost": timeline.lost} if timeline.lost else {}
    yield json.dumps(header | ({"reactive": timeline.reactive} if timeline.reactive else {}))
    yield from map(_span_line, timeline.spans)
    yield from map(_observation_line, timeline.observations)


_text = cache(json.dumps)
"""Names repeat: they are quoted once."""


def _span_line(span: Span) -> str:
    """Write a span as JSON, which is most of what is done for a long timeline."""
    rank, step, lane, operation, phase, start_s, end_s, size_bytes, group = span
    return (
        f'{{"rank": {rank}, "step": {step}, "lane": {_text(lane)}, "operation": {_text(operation)}, '
        f'"phase": {_text(phase)}, "start_s": {start_s!r}, "end_s": {end_s!r}, '
        f'"size_bytes": {size_bytes}, "group": {_text(group)}}}'
    )


def _observation_line(observation: Observation) -> str:
    rank, step, time_s, name, value = observation
    return (
        f'{{"rank": {rank}, "step": {step}, "time_s": {time_s!r}, "name": {_text(name)}, "value": {json.dumps(value)}}}'
    )


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
        period=header.get("period", 1),
    )
