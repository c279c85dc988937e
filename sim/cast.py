"""Cast: which ranks, rows of circles and resources of a plan are simulated, and whom each of them stands for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twinstep.sim.circles import Circle, Demand
from twinstep.sim.fluid import Load
from twinstep.sim.folding import Edges, mix, refine, representatives, words_of
from twinstep.sim.network import Incidence
from twinstep.sim.tariffs import Tariff

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Tables = Sequence[Mapping[Demand, Tariff]]
"""For each circle, the cost of its demands."""

_SIDE = np.uint64(2**32)


@dataclass(frozen=True, slots=True)
class Cast:
    """Representatives: the first of all that live through the same times. An item that stands alone is its own."""

    ranks: Ints
    rows: tuple[Ints, ...]
    """For each circle."""
    resources: Ints

    def loads(self, circle: int, incidence: Incidence) -> Mapping[int, Sequence[Load]]:
        """Give, by representative row, its loads on the representative resources."""
        count = len(self.resources)
        row, resource = self.rows[circle][incidence.row], self.resources[incidence.resource]
        key, entry = np.unique(row * count + resource, return_inverse=True)
        played = resource == incidence.resource
        all_rows = np.bincount(entry[played], weights=incidence.weight[played], minlength=len(key))
        own = np.zeros(len(key))
        is_own = row == incidence.row
        np.maximum.at(own, entry[is_own], incidence.weight[is_own])
        found: dict[int, list[Load]] = {}
        rows, resources = np.divmod(key, count)
        for values in zip(rows.tolist(), resources.tolist(), all_rows.tolist(), own.tolist(), strict=True):
            found.setdefault(values[0], []).append(Load(*values[1:]))
        return found


def everybody(ranks: int, circles: Sequence[Circle], resources: int) -> Cast:
    """Let everything stand for itself alone."""
    return Cast(np.arange(ranks), tuple(np.arange(len(circle.nodes)) for circle in circles), np.arange(resources))


def folded(
    keys: Sequence[Hashable],
    circles: Sequence[Circle],
    eras: Sequence[Tables],
    capacities: NDArray[np.float64],
    marks: Mapping[int, int],
    hosts: Ints,
) -> Cast:
    """Fold a plan.

    `keys` hold what the program and the device of each rank depend on; `eras` the costs, from each change of the
    routes on; `marks` numbers for resources that are not like others of the same capacity; `hosts` the resource of
    the host that each rank computes on, -1 where it needs none.
    """
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    rank_colours = np.array([number[key] for key in keys], dtype=np.int64)
    first_row = len(keys)
    edges: list[Edges] = []
    words: list[Words] = [mix(rank_colours.astype(np.uint64))]
    row_offsets = np.cumsum([first_row, *(len(circle.nodes) for circle in circles)])
    first_resource = int(row_offsets[-1])
    for index, circle in enumerate(circles):
        edges.append(_memberships(index, circle, int(row_offsets[index])))
        costs = [tables[index] for tables in eras]
        edges += _loads(index, costs, int(row_offsets[index]), first_resource)
        words.append(_row_words(index, circle, costs))
    marked = np.array([marks.get(resource, 0) for resource in range(len(capacities))], dtype=np.uint64)
    words.append(mix(words_of(capacities) ^ mix(marked + np.uint64(1))))
    computing = np.flatnonzero(hosts >= 0)
    edges.append(Edges(computing, first_resource + hosts[computing], np.zeros(len(computing), dtype=np.uint64)))
    _, colours = np.unique(np.concatenate(words), return_inverse=True)
    found = representatives(refine(colours, edges))
    rows = (found[a:b] - a for a, b in pairwise(row_offsets.tolist()))
    return Cast(found[:first_row], tuple(rows), found[first_resource:] - first_resource)


def _memberships(index: int, circle: Circle, offset: int) -> Edges:
    """Join ranks and rows; sender and receiver of a message are told apart, the members of a group are not."""
    rows, size = circle.ranks.shape
    side = np.tile(np.arange(size), rows) if circle.is_channel else np.zeros(rows * size, dtype=np.int64)
    label = mix(side.astype(np.uint64) + np.uint64(index + 1) * _SIDE)
    return Edges(circle.ranks.ravel(), offset + np.repeat(np.arange(rows), size), label)


def _loads(index: int, costs: Sequence[Mapping[Demand, Tariff]], offset: int, first_resource: int) -> list[Edges]:
    """Join rows and resources by what flows weigh, once for each pattern of flows."""
    legs = [leg for tariffs in costs for tariff in tariffs.values() for leg in tariff.legs]
    incidences = {id(leg.incidence): leg.incidence for leg in legs}
    edges = []
    for number, incidence in enumerate(incidences.values()):
        salt = np.uint64(index + 1) * _SIDE + np.uint64(number + 1)
        label = mix(words_of(incidence.weight) ^ mix(np.array([salt]))[0])
        edges.append(Edges(offset + incidence.row, first_resource + incidence.resource, label))
    return edges


def _row_words(index: int, circle: Circle, costs: Sequence[Mapping[Demand, Tariff]]) -> Words:
    """Give rows of a circle equal words where all their delays are equal."""
    words = np.full(len(circle.nodes), index + 1, dtype=np.uint64)
    for tariffs in costs:
        for tariff in tariffs.values():
            for leg in tariff.legs:
                words = mix(words ^ words_of(leg.delay_s))
    return words
