"""Trace: the effects of one rank's step as the nodes of a Chakra trace.

A wait becomes no node, but a dependency of what comes after it:

    effects     forward  backward 1  all_reduce 0  backward 0  all_reduce 1  wait 0  wait 1  optimizer
    nodes             0           1             2           3             4                          5
    depends on                    0             1           1             3                      2 3 4

A computation depends on the one before it and on every communication that was waited for since; a communication on
the same, as they are when it is issued. What is waited for later thus runs beside what comes between. Ids count up in
the order of issue, in which ASTRA-sim begins what is free to begin.

Sizes are what readers expect, not everywhere what the effect says: an all_gather has the bytes that a rank contributes
(ASTRA-sim multiplies by the number of ranks, Ring.cc), an effect those of the whole buffer. All others are the
effect's. Times are whole microseconds in the format; each node gets what is left after rounding those before it, so a
rank's computations together are right to half a microsecond, however short each of them is.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from twinstep.chakra.schema import COMM_TYPES, Node, NodeType
from twinstep.effects import Collective, Compute, Effect, Learn, Mark, Observe, Synchronize, Transfer, Wait
from twinstep.programs import Groups

FIRST_GROUP_ID = 1
"""ASTRA-sim takes 0 for all ranks, and refuses to read it from a file of groups."""


@dataclass(frozen=True, slots=True)
class CommGroups:
    """The groups of a plan under the ids that traces call them by.

    >>> import numpy as np
    >>> comm = CommGroups({"tensor": Groups("tensor", np.array([[0, 1], [2, 3]])),
    ...                    "data": Groups("data", np.array([[0, 2], [1, 3]]))})
    >>> comm.by_id(), comm.id_of("data", 3)
    ({1: [0, 1], 2: [2, 3], 3: [0, 2], 4: [1, 3]}, 4)
    """

    groups: Mapping[str, Groups]

    def by_id(self) -> dict[int, list[int]]:
        """List the ranks of every group, numbered kind by kind."""
        rows = (row for groups in self.groups.values() for row in groups.ranks.tolist())
        return dict(enumerate(rows, FIRST_GROUP_ID))

    def id_of(self, kind: str, rank: int) -> int:
        """Give the id of the group of a kind that a rank is in."""
        number = FIRST_GROUP_ID
        for name, groups in self.groups.items():
            if name == kind:
                return number + groups.row_of(rank)
            number += len(groups.ranks)
        raise KeyError(kind)

    def peer(self, effect: Transfer, rank: int) -> int:
        """Give the rank at the other end of a message."""
        groups = self.groups[effect.group]
        return int(groups.ranks[groups.row_of(rank), effect.peer])


def message_lanes(programs: Iterable[Iterable[Effect]]) -> tuple[str, ...]:
    """Name the lanes of all messages, in one order for all ranks."""
    return tuple(sorted({effect.lane for effects in programs for effect in effects if isinstance(effect, Transfer)}))


class RankTrace:
    """Turns the effects of one rank into nodes; used once.

    `compute_s` gives a computation's seconds, or is None where they are not known. `lanes` are those of
    `message_lanes`: the n-th message from one rank to another on one lane has the same tag at both ends.
    """

    def __init__(
        self, rank: int, comm: CommGroups, lanes: Sequence[str], compute_s: Callable[[Compute], float] | None
    ) -> None:
        self._rank = rank
        self._comm = comm
        self._lanes = lanes
        self._compute_s = compute_s
        self._next_id = 0
        self._done_before: tuple[int, ...] = ()
        """What must be done before anything that comes now."""
        self._issued: dict[int, deque[int]] = defaultdict(deque)
        """Nodes that nobody waited for yet, by the identity of their effect: a plan's effects are the same objects."""
        self._messages: dict[tuple[str, int, str], int] = defaultdict(int)
        self._elapsed_s = 0.0
        self._elapsed_micros = 0

    def nodes(self, effects: Iterable[Effect]) -> Iterator[Node]:
        """Give the nodes in the order of issue."""
        for effect in effects:
            if type(effect) is Compute:
                yield self._compute(effect)
            elif type(effect) is Collective or type(effect) is Transfer:
                yield self._communication(effect)
            elif type(effect) is Wait:
                self._done_before += (self._issued[id(effect.handle.effect)].popleft(),)
            elif type(effect) not in (Learn, Mark, Observe, Synchronize):
                raise TypeError(f"no such effect: {effect!r}")

    def _compute(self, effect: Compute) -> Node:
        # With no operation at all, ASTRA-sim's roofline would divide 0 by 0; with one, the bytes decide.
        sizes = {"num_ops": max(round(effect.work_flops), 1), "tensor_size": round(effect.bytes_moved)}
        node = self._node(effect, NodeType.COMP, sizes, self._duration_micros(effect))
        self._done_before = (node.id,)
        return node

    def _duration_micros(self, effect: Compute) -> int:
        if self._compute_s is None:
            return 0
        self._elapsed_s += self._compute_s(effect)
        before, self._elapsed_micros = self._elapsed_micros, round(self._elapsed_s * 1e6)
        return self._elapsed_micros - before

    def _communication(self, effect: Collective | Transfer) -> Node:
        if isinstance(effect, Collective):
            node = self._node(effect, NodeType.COMM_COLL, self._collective(effect))
        elif effect.kind == "send":
            node = self._node(effect, NodeType.COMM_SEND, self._message(effect, "comm_src", "comm_dst"))
        else:
            node = self._node(effect, NodeType.COMM_RECV, self._message(effect, "comm_dst", "comm_src"))
        self._issued[id(effect)].append(node.id)
        return node

    def _collective(self, effect: Collective) -> dict[str, int | str]:
        shares = self._comm.groups[effect.group].size if effect.kind == "all_gather" else 1
        return {
            "comm_type": COMM_TYPES[effect.kind],
            "comm_size": effect.size_bytes // shares,
            "pg_name": str(self._comm.id_of(effect.group, self._rank)),
        }

    def _message(self, effect: Transfer, own_end: str, other_end: str) -> dict[str, int | str]:
        peer = self._comm.peer(effect, self._rank)
        key = (effect.kind, peer, effect.lane)
        number = self._messages[key]
        self._messages[key] += 1
        tag = number * len(self._lanes) + self._lanes.index(effect.lane)
        return {own_end: self._rank, other_end: peer, "comm_size": effect.size_bytes, "comm_tag": tag}

    def _node(
        self,
        effect: Compute | Collective | Transfer,
        kind: NodeType,
        attributes: Mapping[str, int | str],
        duration_micros: int = 0,
    ) -> Node:
        number = self._next_id
        self._next_id += 1
        return Node(
            number, effect.operation, kind, self._done_before, duration_micros, {"is_cpu_op": False, **attributes}
        )
