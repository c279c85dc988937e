"""Groups: which ranks communicate with one another, by kind of group.

A kind such as `tensor` has many groups of equal size, one a row of an array of ranks. Effects name the kind; which of
its groups is meant follows from the rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinstep.timeline import kind_of_group

Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of one kind: every rank is in one of them at most.

    >>> groups = Groups("tensor", np.array([[0, 1], [2, 3]]))
    >>> groups.row_of(3), groups.position_of(3), groups.name_of(3)
    (1, 1, 'tensor 1')
    """

    kind: str
    ranks: Ranks
    """One row a group; the order of the columns is that of the positions in the group."""
    _cell: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        flat = self.ranks.ravel().tolist()
        object.__setattr__(self, "_cell", dict(zip(flat, range(len(flat)), strict=True)))

    @property
    def size(self) -> int:
        """Ranks of each group."""
        return int(self.ranks.shape[1])

    def row_of(self, rank: int) -> int:
        """Give the index of a rank's group."""
        return self._cell[rank] // self.size

    def position_of(self, rank: int) -> int:
        """Give a rank's position in its group."""
        return self._cell[rank] % self.size

    def name_of(self, rank: int) -> str:
        """Name a rank's group: the kind, and a number where there are several."""
        return self.kind if len(self.ranks) == 1 else f"{self.kind} {self.row_of(rank)}"


def everybody(kind: str, ranks: int) -> Mapping[str, Groups]:
    """Give the one group of a kind that all ranks are in.

    >>> everybody("data", 3)["data"].ranks.tolist()
    [[0, 1, 2]]
    """
    return {kind: Groups(kind, np.arange(ranks).reshape(1, -1))}


def own_names(groups: Mapping[str, Groups]) -> Callable[[str, int], str]:
    """Give a function that names a rank's own group of the same kind as a named one."""
    return lambda name, rank: groups[kind_of_group(name)].name_of(rank)
