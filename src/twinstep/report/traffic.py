"""Traffic: what both sides say of the same communication, and the links that were busiest."""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.communication import CollectiveUse, Communication, GroupTime, LinkCount, LinkUse
from twinstep.report.contents import Contents

_MUCH = 100
"""A link that carries less than this part of the busiest one's bytes has only what setting up takes."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """All communications of one kind, group, number of ranks and size, as each side has them."""

    kind: str
    group: str
    ranks: int
    size_bytes: int
    """Of a rank's whole buffer."""
    uses: tuple[CollectiveUse | None, ...]
    """One a side, in the order of `sides`; None where that side did not have it."""

    @property
    def name(self) -> str:
        """What is done, and in which kind of group."""
        return f"{self.kind} {self.group}"

    @property
    def total_s(self) -> float:
        """The time of all that a group does of it in a step, on the side where that is longer, in seconds."""
        return max(use.time_s * use.per_step for use in self.uses if use)


def sides(contents: Contents) -> tuple[tuple[str, Communication], ...]:
    """Name the sides that there are, predicted first; none where nobody communicated, as with one rank."""
    found = tuple(
        (name, part.communication)
        for name, part in (("predicted", contents.prediction), ("measured", contents.measurement))
        if part is not None
    )
    return found if any(side.collectives or side.links for _, side in found) else ()


def exchanges(contents: Contents) -> list[Exchange]:
    """Put what is the same on both sides together, what takes most of a step first."""
    by_side = [{use[:4]: use for use in side.collectives} for _, side in sides(contents)]
    keys = dict.fromkeys(key for uses in by_side for key in uses)
    found = [Exchange(*key, tuple(uses.get(key) for uses in by_side)) for key in keys]
    return sorted(found, key=lambda exchange: (-exchange.total_s, exchange.name, exchange.size_bytes))


def group_rows(contents: Contents) -> list[tuple[str, tuple[GroupTime, ...]]]:
    """Give what each kind of group communicates, one time a side in the order of `sides`; nothing where there is one.

    What is exposed most comes first.
    """
    by_side = [{each.group: each for each in side.groups} for _, side in sides(contents)]
    kinds = dict.fromkeys(kind for times in by_side for kind in times)
    rows = [(kind, tuple(times.get(kind, GroupTime(kind, 0.0, 0.0)) for times in by_side)) for kind in kinds]
    rows.sort(key=lambda row: -max(each.exposed_s for each in row[1]))
    return rows if sum(1 for kind in kinds if kind) > 1 else []


def links(contents: Contents) -> list[LinkUse]:
    """Give the links that the prediction counted, the busiest first: of equal ones, that at which more was waited."""
    used = contents.prediction.communication.links if contents.prediction else ()
    return sorted(used, key=lambda link: (-round(link.utilisation, 6), -round(link.queueing_s, 9)))


@dataclass(frozen=True, slots=True)
class Crossing:
    """One direction of a link, predicted and counted."""

    name: str
    predicted: LinkUse
    counted: LinkCount

    @property
    def error(self) -> float | None:
        """Signed fraction (predicted - counted) / counted of the bytes; None where nothing crossed."""
        counted = self.counted.size_bytes
        return (self.predicted.size_bytes - counted) / counted if counted else None


def crossings(contents: Contents) -> list[Crossing]:
    """Give the links that were counted: those that were predicted in the order of `links`, then others with much."""
    counts = contents.measurement.counts if contents.measurement else None
    by_ends = {link[:2]: link for link in counts.links} if counts else {}
    found = [Crossing(link_name(link), link, by_ends.pop(link[:2])) for link in links(contents) if link[:2] in by_ends]
    most = max((crossing.counted.size_bytes for crossing in found), default=0)
    missed = sorted(by_ends.values(), key=lambda link: -link.size_bytes)
    missed = [link for link in missed if link.size_bytes > most / _MUCH]
    return found + [Crossing(link_name(link), LinkUse(*link[:2], 0.0, 0.0, 0.0), link) for link in missed]


def link_name(link: LinkUse | LinkCount) -> str:
    """Name one direction of a link.

    >>> link_name(LinkUse("host0", "switch0", 1.0, 0.5, 0.0))
    'host0 to switch0'
    """
    return f"{link.source} to {link.target}"
