"""Records: what ranks write down while they are simulated, in rows that become a table at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import chain
from operator import itemgetter

import numpy as np

from twinstep.sim.meetings import Meeting
from twinstep.spans import Kind, SpanTable
from twinstep.timeline import Observation

Row = tuple[int, int, float, float]
"""A span: number of its kind, step, begin and end in seconds."""


class Records:
    """What all ranks have written down."""

    def __init__(self) -> None:
        self.rows: dict[int, list[Row]] = defaultdict(list)
        """For each rank, in the order in which they ended."""
        self._observations: list[Observation] = []
        self._kinds: dict[Kind, int] = {}
        self._communications: dict[tuple[str, str, int, str], int] = {}

    def kind(self, kind: Kind) -> int:
        """Number a kind."""
        return self._kinds.setdefault(kind, len(self._kinds))

    def observe(self, observation: Observation) -> None:
        """Note a value."""
        self._observations.append(observation)

    def meet(self, group: str, meeting: Meeting) -> None:
        """Note a communication of a group that is complete, for each rank that issued it."""
        known, end_s = self._communications, meeting.end_s
        for rank, step, start_s, effect in meeting.issued:
            key = (effect.lane, effect.operation, effect.size_bytes, group)
            kind = known.get(key)
            if kind is None:
                lane, operation, size_bytes, _ = key
                kind = known[key] = self.kind(Kind(lane, operation, "communication", size_bytes, group))
            self.rows[rank].append((kind, step, start_s, end_s))

    def spans(self, lost: Collection[int]) -> SpanTable:
        """Give the spans of the ranks that live, by rank, then by start, lane and operation."""
        living = [rank for rank in sorted(self.rows) if rank not in lost]
        rank = np.repeat(np.array(living, dtype=np.int64), [len(self.rows[rank]) for rank in living])
        values = chain.from_iterable(chain.from_iterable(self.rows[rank] for rank in living))
        rows = np.fromiter(values, np.float64, 4 * len(rank)).reshape(-1, 4)
        kind, step = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
        found = SpanTable(rank, step, kind, rows[:, 2], rows[:, 3], tuple(self._kinds))
        name = found.numbers(lambda kind: (kind.lane, kind.operation))
        return found.chosen(np.lexsort((name, found.start_s, found.rank)))

    def observations(self, lost: Collection[int]) -> tuple[Observation, ...]:
        """Give what the ranks that live have observed, by time, then rank."""
        return tuple(sorted((each for each in self._observations if each.rank not in lost), key=itemgetter(2, 0)))
