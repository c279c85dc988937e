"""Overlap: how much of some intervals lies within the union of others, group by group, exactly.

Times are compared and subtracted as they are; where groups and times must be ordered together, times are replaced by
their position among all times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twinstep.spans import Floats, Ints, sums


class Intervals(NamedTuple):
    """Intervals by column, each of a group."""

    group: Ints
    start_s: Floats
    end_s: Floats

    def ordered(self) -> Intervals:
        """Sort by group, then start, then end."""
        order = np.lexsort((self.end_s, self.start_s, self.group))
        return Intervals(self.group[order], self.start_s[order], self.end_s[order])


def overlap_s(intervals: Intervals, others: Intervals, groups: int) -> Floats:
    """Give each group's seconds of `intervals` in which any of `others` is under way.

    >>> one, two = (np.zeros(1, int), np.array([1.0]), np.array([4.0])), (np.zeros(2, int), np.r_[0, 3], np.r_[2, 9])
    >>> overlap_s(Intervals(*one), Intervals(*two), 1)
    array([2.])
    """
    found, busy = intervals.ordered(), _merged(others.ordered())
    times_s = np.unique(np.concatenate([found.start_s, found.end_s, busy.start_s, busy.end_s]))

    def place(group: Ints, time_s: Floats) -> Ints:
        return group * len(times_s) + np.searchsorted(times_s, time_s)

    first = np.searchsorted(place(busy.group, busy.end_s), place(found.group, found.start_s), "right")
    beyond = np.searchsorted(place(busy.group, busy.start_s), place(found.group, found.end_s), "left")
    counts = np.maximum(0, beyond - first)
    mine = np.repeat(np.arange(len(counts)), counts)
    theirs = np.arange(len(mine)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    both_s = np.minimum(found.end_s[mine], busy.end_s[theirs]) - np.maximum(found.start_s[mine], busy.start_s[theirs])
    return sums(found.group[mine], both_s, groups)


def _merged(ordered: Intervals) -> Intervals:
    """Join intervals of a group that overlap or touch."""
    group, start_s, end_s = ordered
    if not len(group):
        return ordered
    times_s, place = np.unique(end_s, return_inverse=True)
    latest_s = times_s[np.maximum.accumulate(group * len(times_s) + place) - group * len(times_s)]
    begins = np.ones(len(group), dtype=bool)
    begins[1:] = (group[1:] != group[:-1]) | (start_s[1:] > latest_s[:-1])
    last = np.append(np.flatnonzero(begins)[1:], len(group)) - 1
    return Intervals(group[begins], start_s[begins], latest_s[last])
