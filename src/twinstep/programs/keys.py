"""Keys: which parameter server has which parameters.

*Range*: consecutive ranges whose lengths differ by one element at most. *Consistent hashing*: blocks of parameters, of
which each is hashed as a whole (`hash_circle`).
"""

from __future__ import annotations

from twinstep.errors import InputError
from twinstep.kernels import ELEMENT_BYTES
from twinstep.programs.hash_circle import HashCircle
from twinstep.programs.placement import shards
from twinstep.synchronisation import Servers

_MOST_BLOCKS = 100_000


def key_ranges(servers: Servers, elements: int) -> tuple[tuple[range, ...], ...]:
    """List for each server the ranges of parameters that it has, in order. Raises InputError for too many blocks.

    >>> key_ranges(Servers(count=2), 5)
    ((range(0, 3),), (range(3, 5),))
    """
    if servers.keys == "range":
        return tuple((part,) if part else () for part in shards(elements, servers.count))
    length = max(1, servers.block // ELEMENT_BYTES)
    if elements > length * _MOST_BLOCKS:
        problem = f"sync.servers.block cuts {elements:,} parameters into more than {_MOST_BLOCKS:,} blocks"
        raise InputError(problem, remedy="give blocks more bytes")
    found: list[list[range]] = [[] for _ in range(servers.count)]
    circle = HashCircle(servers.count)
    for block, start in enumerate(range(0, elements, length)):
        found[circle.owner(block)].append(range(start, min(elements, start + length)))
    return tuple(map(tuple, found))
