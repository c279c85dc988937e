"""Collectives: every operation that torch gives to a process group, seen where all of them pass.

Whoever communicates, the reducer of DistributedDataParallel in C++, fully_shard, DTensor's functional collectives or
`isend`, ends at an operator `c10d::...` of torch's dispatcher. For each of these operators a kernel is registered at
the dispatch key BackendSelect, which stands before every backend's and is never switched off. It notes the operation,
hands it on unchanged, and gives the caller a work object that notes when it is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor

from twinstep.exec.native.recorder import Communication, Recorder

GroupName = Callable[[dist.ProcessGroup, str], str]
"""Names a process group for a kind of operation."""


class _Operator(NamedTuple):
    """What an operator of c10d is."""

    kind: str
    """As the timeline calls it."""
    counted: int
    """Which of its arguments is the rank's whole buffer."""
    group: int = 1
    """Which of them is the process group."""
    shares: bool = False
    """Whether the argument is a rank's share of the buffer."""


_OPERATORS = {
    "allreduce_": _Operator("all_reduce", 0),
    "allreduce_coalesced_": _Operator("all_reduce", 0),
    "broadcast_": _Operator("broadcast", 0),
    "reduce_": _Operator("reduce", 0),
    "allgather_": _Operator("all_gather", 0, 2),
    "_allgather_base_": _Operator("all_gather", 0, 2),
    "allgather_coalesced_": _Operator("all_gather", 0, 2),
    "allgather_into_tensor_coalesced_": _Operator("all_gather", 0, 2),
    "reduce_scatter_": _Operator("reduce_scatter", 1, 2),
    "_reduce_scatter_base_": _Operator("reduce_scatter", 1, 2),
    "reduce_scatter_tensor_coalesced_": _Operator("reduce_scatter", 1, 2),
    "alltoall_": _Operator("all_to_all", 1, 2),
    "alltoall_base_": _Operator("all_to_all", 1, 2),
    "gather_": _Operator("gather", 1, 2, shares=True),
    "scatter_": _Operator("scatter", 0, 2, shares=True),
    "send": _Operator("send", 0),
    "recv_": _Operator("recv", 0),
}
_NO_TIMEOUT = timedelta()


class NotedWork(dist.Work):
    """torch's work object, which notes when it is complete and who waits for it."""

    def __init__(self, work: dist.Work, communication: Communication, recorder: Recorder, *, is_awaited: bool) -> None:
        """Note the end when it comes; where the caller awaits it at once, the end of that is enough.

        What is called in a thread of the process group takes the interpreter from the rank.
        """
        super().__init__()
        self._work = work
        self._communication = communication
        self._recorder = recorder
        self.is_left = False
        """Whether nobody will ask for it any more."""
        if not is_awaited:
            with suppress(RuntimeError):  # gloo has no future for messages and reduce_scatter
                communication.noting = work.get_future().then(lambda _: recorder.complete(communication))

    def wait(self, timeout: timedelta = _NO_TIMEOUT) -> bool:
        """Block until it is complete, or let the stream wait for it."""
        with self._recorder.waiting(self._communication):
            done = self._work.wait(timeout)
            self._recorder.complete(self._communication)
        self.is_left = True
        return done

    def get_future(self) -> torch.futures.Future[Any]:
        """Give torch's own future."""
        self.is_left = True
        return self._work.get_future()

    def is_completed(self) -> bool:
        """Tell whether it is complete."""
        return self._work.is_completed()

    def result(self) -> list[Tensor]:
        """Give what torch's work object gives."""
        return self._work.result()

    def synchronize(self) -> None:
        """Let the current stream wait for it."""
        self.wait()


class SeenCollectives:
    """Sees what process groups do while it is entered."""

    def __init__(self, recorder: Recorder, group_name: GroupName) -> None:
        self._recorder = recorder
        self._group_name = group_name
        self._under_way: list[NotedWork] = []
        """The dispatcher holds the part of a work object that is in C++ alone."""
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        library = self._entered.enter_context(torch.library._scoped_library("c10d", "IMPL"))
        for name, operator in _OPERATORS.items():
            library.impl(name, self._kernel(name, operator), "BackendSelect", with_keyset=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def _kernel(self, name: str, operator: _Operator) -> Callable[..., Any]:
        overload = getattr(torch.ops.c10d, name).default
        select = torch._C.DispatchKey.BackendSelect
        names = [argument.name for argument in overload._schema.arguments]
        asynchronous = names.index("async_op") if "async_op" in names else None

        def kernel(keys: torch._C.DispatchKeySet, *arguments: Any, **named: Any) -> Any:
            begun = self._begin(operator, arguments)
            given = overload.redispatch(keys.remove(select), *arguments, **named)
            if begun is None:
                return given
            is_awaited = asynchronous is not None and arguments[asynchronous : asynchronous + 1] == (False,)
            if isinstance(given, tuple):
                return (*given[:-1], self._noted(given[-1], begun, is_awaited))
            return self._noted(given, begun, is_awaited)

        return kernel

    def _begin(self, operator: _Operator, arguments: Sequence[Any]) -> Communication | None:
        group = dist.ProcessGroup.unbox(arguments[operator.group])
        size_bytes = _size_bytes(arguments[operator.counted]) * (group.size() if operator.shares else 1)
        hop = ""
        if operator.kind in ("send", "recv"):
            ends = (group.rank(), arguments[2])
            hop = "{}>{}".format(*(ends if operator.kind == "send" else reversed(ends)))
        kind = f"{operator.kind} message" if hop else operator.kind
        return self._recorder.begin(kind, size_bytes, self._group_name(group, operator.kind), hop)

    def _noted(self, boxed: Any, begun: Communication, is_awaited: bool) -> Any:
        """Give a work object that notes what becomes of the given one; what has none is complete."""
        if boxed is None:
            self._recorder.complete(begun)
            return None
        self._under_way = [work for work in self._under_way if not work.is_left]
        self._under_way.append(NotedWork(dist.Work.unbox(boxed), begun, self._recorder, is_awaited=is_awaited))
        return self._under_way[-1].boxed()


def _size_bytes(tensors: Any) -> int:
    """Add up the bytes of a tensor, or of all in a list."""
    return int(tensors.nbytes) if isinstance(tensors, Tensor) else sum(map(_size_bytes, tensors))
