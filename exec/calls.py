"""Calls: communication effects as calls of torch.distributed, on buffers of zeros.

What is summed or sent does not matter where compute is emulated, but how much and by which call does. Variants are
those that training uses: one tensor in, one tensor out, where torch offers both.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from twinstep.effects import Collective, ElementType, Transfer
from twinstep.kernels import ELEMENT_BYTES
from twinstep.splits import Splits
from twinstep.timeline import CollectiveKind

_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
"""Under the names that torch 2.13 has given them, or the older ones."""
TORCH_TYPES: dict[ElementType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
}
WITHOUT_FUTURE = ("reduce_scatter",)
"""Collectives whose work objects have no future on gloo (torch 2.13)."""


class Joined(NamedTuple):
    """A group that the rank is in."""

    group: dist.ProcessGroup
    ranks: tuple[int, ...]
    """The ranks of the whole run that it has, by position."""
    position: int
    """The rank's own."""


class Buffers:
    """Tensors for the calls of one rank: made when they are first used, shared by what is alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Tensor] = {}

    def zeros(self, size_bytes: int, *key: object, dtype: torch.dtype = torch.float32) -> Tensor:
        """Give zeros of about `size_bytes`, in whole elements, the same for the same key."""
        elements = max(1, size_bytes // dtype.itemsize)
        if (elements, dtype, *key) not in self._known:
            self._known[elements, dtype, *key] = torch.zeros(elements, dtype=dtype)
        return self._known[elements, dtype, *key]


class Calls:
    """Begins communication among the groups that a rank is in."""

    def __init__(self, joined: Mapping[str, Joined]) -> None:
        self._joined = joined
        self._buffers = Buffers()

    def begin(self, effect: Collective | Transfer) -> dist.Work:
        """Begin a collective, or a message; the order on each side says which of a lane's messages is meant."""
        joined = self._joined[effect.group]
        if isinstance(effect, Collective):
            dtype = TORCH_TYPES[effect.dtype]
            if effect.contents is not None:
                return begin_in_place(effect, torch.from_numpy(effect.contents).view(dtype), joined)
            if effect.splits is not None:
                return _begin_split(effect.splits, joined, self._buffers)
            key = (effect.bucket, effect.round)
            return begin_collective(effect.kind, effect.size_bytes, joined, self._buffers, key, dtype)
        tensor = self._tensor(effect)
        peer = joined.ranks[effect.peer]
        tag = _tag(effect.lane)
        if effect.kind == "send":
            return _started(dist.isend(tensor, peer, group=joined.group, tag=tag))
        return _started(dist.irecv(tensor, peer, group=joined.group, tag=tag))

    def listen(self, effect: Transfer) -> dist.Work:
        """Begin to receive what the peer of a message never sends."""
        joined = self._joined[effect.group]
        return _started(dist.irecv(torch.zeros(1), joined.ranks[effect.peer], group=joined.group, tag=_tag("lifeline")))

    def _tensor(self, effect: Transfer) -> Tensor:
        """Give the contents of a message, or zeros, which a lane's messages share unless they are announced."""
        if effect.contents is not None:
            return torch.from_numpy(effect.contents)
        channel = effect.peer if effect.announced else None
        dtype = torch.uint8 if effect.size_bytes % ELEMENT_BYTES else torch.float32
        return self._buffers.zeros(effect.size_bytes, effect.kind, effect.lane, channel, dtype=dtype)


def begin_in_place(effect: Collective, tensor: Tensor, joined: Joined) -> dist.Work:
    """Begin to sum a tensor over the ranks, or to gather its rows, of which each rank gives its own."""
    if effect.kind == "all_gather":
        own = tensor[joined.position].clone()
        return _started(_all_gather(tensor.view(-1), own, group=joined.group, async_op=True))
    return _started(dist.all_reduce(tensor, group=joined.group, async_op=True))


def begin_collective(
    kind: CollectiveKind,
    size_bytes: int,
    joined: Joined,
    buffers: Buffers,
    key: object = None,
    dtype: torch.dtype = torch.float32,
) -> dist.Work:
    """Begin a collective; `size_bytes` is a rank's whole buffer, and what has another `key` has other tensors."""
    group, count = joined.group, len(joined.ranks)
    root, is_root = joined.ranks[0], joined.position == 0
    share_bytes = size_bytes // count

    def whole(name: str = "in") -> Tensor:
        return buffers.zeros(size_bytes, kind, name, key, dtype=dtype)

    def share(name: str = "share") -> Tensor:
        return buffers.zeros(share_bytes, kind, name, key, dtype=dtype)

    def shares(name: str) -> Tensor:
        shared_bytes = max(share_bytes // dtype.itemsize, 1) * dtype.itemsize
        return buffers.zeros(shared_bytes * count, kind, name, key, dtype=dtype)

    def at_root(name: str) -> list[Tensor] | None:
        return list(shares(name).chunk(count)) if is_root else None

    calls: dict[CollectiveKind, Callable[[], dist.Work | None]] = {
        "all_reduce": lambda: dist.all_reduce(whole(), group=group, async_op=True),
        "broadcast": lambda: dist.broadcast(whole(), root, group=group, async_op=True),
        "reduce": lambda: dist.reduce(whole(), root, group=group, async_op=True),
        "all_gather": lambda: _all_gather(shares("out"), share(), group=group, async_op=True),
        "reduce_scatter": lambda: _reduce_scatter(share(), shares("in"), group=group, async_op=True),
        "all_to_all": lambda: dist.all_to_all_single(shares("out"), shares("in"), group=group, async_op=True),
        "gather": lambda: dist.gather(share(), at_root("out"), root, group=group, async_op=True),
        "scatter": lambda: dist.scatter(share(), at_root("in"), root, group=group, async_op=True),
        "barrier": lambda: dist.barrier(group=group, async_op=True),
    }
    return _started(calls[kind]())


def _begin_split(splits: Splits, joined: Joined, buffers: Buffers) -> dist.Work:
    """Begin an all-to-all with unequal parts, of which some, or all that a rank has, may be empty."""
    sent, received = (
        [size // ELEMENT_BYTES for size in sizes_bytes]
        for sizes_bytes in (splits.sent_bytes(joined.position), splits.received_bytes(joined.position))
    )
    out, into = (
        buffers.zeros(ELEMENT_BYTES * sum(parts), "all_to_all", name)[: sum(parts)]
        for parts, name in ((received, "received"), (sent, "sent"))
    )
    return _started(dist.all_to_all_single(out, into, received, sent, group=joined.group, async_op=True))


def begin_message(size_bytes: int, joined: Joined, buffers: Buffers, tag: int) -> dist.Work:
    """Begin a message from the first rank of a group to the second, at one of its ends."""
    tensor = buffers.zeros(size_bytes, "message", tag)
    call = dist.isend if joined.position == 0 else dist.irecv
    return _started(call(tensor, joined.ranks[1 - joined.position], group=joined.group, tag=tag))


def _tag(lane: str) -> int:
    """Give messages of different lanes different tags, the same on all ranks."""
    return zlib.crc32(lane.encode()) & 0x7FFF


def _started(work: dist.Work | None) -> dist.Work:
    if work is None:
        raise RuntimeError("torch.distributed began nothing: the rank is not in the group")
    return work
