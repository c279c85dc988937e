"""A replay of all ranks' nodes by ASTRA-sim's rules (Workload.cc, HardwareResource.cc), without times."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from twinstep.chakra.schema import Node, NodeType


class _Rank:
    """Issues what is free in the order of ids: one computation at a time, one collective or send, any receives."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.waits_for = {node.id: set(node.depends_on) for node in nodes}
        self.nodes = {node.id: node for node in nodes}
        self.in_flight: dict[int, Any] = {}
        self.issued_in: Counter[Any] = Counter()

    def issue(self) -> list[tuple[Any, Node]]:
        issued = []
        for number in sorted(self.waits_for):
            node = self.nodes[number]
            busy = {slot(self.nodes[other]) for other in self.in_flight}
            if self.waits_for[number] or number in self.in_flight or slot(node) in busy - {"receive"}:
                continue
            key = meeting(node)
            if node.type == NodeType.COMM_COLL:
                key = (*key, self.issued_in[key])
                self.issued_in[key[:-1]] += 1
            self.in_flight[number] = key
            issued.append((key, node))
        return issued

    def finish(self, number: int) -> None:
        del self.in_flight[number], self.waits_for[number]
        for others in self.waits_for.values():
            others.discard(number)


def slot(node: Node) -> str:
    return {NodeType.COMP: "computation", NodeType.COMM_RECV: "receive"}.get(node.type, "communication")


def meeting(node: Node) -> tuple[Any, ...]:
    """Say who meets in a node: a group, or the two ends of a message."""
    names = ("pg_name",) if node.type == NodeType.COMM_COLL else ("comm_src", "comm_dst", "comm_tag")
    return tuple(node.attributes.get(name) for name in names)


def replay(traces: Sequence[Sequence[Node]], groups: dict[int, list[int]], seed: int) -> list[int]:
    """Let ranks go on in a random order; give the number of nodes that each of them could not finish."""
    order = random.Random(seed)
    ranks = [_Rank(nodes) for nodes in traces]
    came: dict[Any, dict[int, Node]] = defaultdict(dict)
    sent = set()
    while True:
        went_on = False
        for number in order.sample(range(len(ranks)), len(ranks)):
            for key, node in ranks[number].issue():
                went_on = True
                if node.type == NodeType.COMM_COLL:
                    came[key][number] = node
                    assert len({(each.name, each.attributes["comm_size"]) for each in came[key].values()}) == 1
                elif node.type == NodeType.COMM_SEND:
                    sent.add(key)
            for node_id, key in list(ranks[number].in_flight.items()):
                if is_done(ranks[number].nodes[node_id], key, came, sent, groups):
                    ranks[number].finish(node_id)
                    went_on = True
        if not went_on:
            return [len(rank.waits_for) for rank in ranks]


def is_done(
    node: Node, key: Any, came: dict[Any, dict[int, Node]], sent: set[Any], groups: dict[int, list[int]]
) -> bool:
    if node.type == NodeType.COMM_COLL:
        return set(came[key]) == set(groups[int(key[0])])
    return node.type != NodeType.COMM_RECV or key in sent
