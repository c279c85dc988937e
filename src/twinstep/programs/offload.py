"""Offload: a rank's optimizer state lies in its host's memory, where the host's processor updates parameters.

Source: Ren et al., "ZeRO-Offload: Democratizing billion-scale model training", USENIX ATC 2021. Three buckets of
gradients g, their updates u and new parameters p, with overlap:

    compute     backward 2  backward 1  backward 0  w     u0    u1    u2    w
    to_host                 g0          g1          g2
    to_device                                                   p0    p1    p2

A bucket's gradients leave when the rank's share of them is complete: after the backward pass, or after their reduction.
Two copies are under way at most: a third waits for the first, so that gradients of few buckets are on the device at
once. The update begins when all gradients of the rank have come, as it clips them by the norm of all. Without overlap
copies begin after all backward passes and reductions, and parameters travel back after all updates, one by one.

A rank whose share is P bytes sends P bytes and gets P bytes back: 8 bytes a parameter in single precision, where the
paper's 16-bit numbers need 4. Its host holds the gradients, a copy of the parameters and the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from twinstep.effects import Collective, HostCompute, HostCopy, Wait
from twinstep.kernels import ELEMENT_BYTES, Kernel
from twinstep.plan import Plan
from twinstep.programs.held import Held
from twinstep.programs.holding import completed, hold
from twinstep.programs.ledger import Entry
from twinstep.programs.schedules import Direction
from twinstep.programs.script import Line, begin, do, finish, follow, wait
from twinstep.workloads import TIED_WEIGHT, Parameter

_MOST_UNDER_WAY = 2


class Share(NamedTuple):
    """The gradients of a bucket, or the rank's shard of them, on their way to the host."""

    copy: HostCopy
    tensors: int
    """Parameters that it has parts of."""
    after: Collective | None
    """The reduction that completes it, if other ranks have the same parameters."""

    @property
    def begun(self) -> Line:
        """Begin to copy it."""
        return follow(self.copy, self.after) if self.after else begin(self.copy)

    @property
    def back(self) -> HostCopy:
        """Copy the new parameters to the device."""
        return HostCopy("to_device", self.copy.size_bytes, self.copy.bucket)


class HostOptimizer:
    """What one rank has on its host: all shares of a step, and how they come and go."""

    def __init__(self, plan: Plan) -> None:
        self._kind = plan.training.optimizer.kind
        self._overlap = plan.sync.overlap
        self._waiting: list[Share] = []
        self._under_way: list[Share] = []
        self._shares: list[Share] = []

    def take(self, share: Share, *, late: bool) -> list[Line]:
        """Begin to copy a share, or after all backward passes if it is `late`, or without overlap."""
        if late or not self._overlap:
            self._waiting.append(share._replace(after=None))  # which is complete by then
            return []
        return self._copied(share)

    def update(self) -> Iterator[Line]:
        """Let the rest come, update everything, and give it back."""
        for share in self._waiting:
            yield from self._copied(share)
        yield from (wait(share.copy) for share in self._under_way)
        back = [share.back for share in self._shares]
        for share, copy in zip(self._shares, back, strict=True):
            yield do(self._step(share))
            if self._overlap:
                yield begin(copy)
        for copy in back:
            yield from [wait(copy)] if self._overlap else finish(copy)

    def _copied(self, share: Share) -> list[Line]:
        """Begin a copy; without overlap it is under way alone."""
        full = len(self._under_way) == (_MOST_UNDER_WAY if self._overlap else 1)
        before = [wait(self._under_way.pop(0).copy)] if full else []
        self._under_way.append(share)
        self._shares.append(share)
        return [*before, share.begun]

    def _step(self, share: Share) -> HostCompute:
        kernel = Kernel(self._kind, (share.copy.size_bytes // ELEMENT_BYTES, share.tensors))
        return HostCompute("host_optimizer", (kernel,), bucket=share.copy.bucket)


class Offloaded:
    """A holding whose gradients leave for the host; it exchanges them with other ranks as it would without."""

    def __init__(self, held: Held, host: HostOptimizer, *, ties_ends: bool) -> None:
        """With `ties_ends` another rank has the tied weight, too: it leaves after the sum of its gradients.

        So does what is summed over tensor-parallel ranks alone.
        """
        self._inner = hold(held)
        self._held = held
        self._host = host
        self._ties_ends = ties_ends
        self._parameters = _by_number(held)
        self._alone = [*held.buckets] if held.sharers.ranks == 1 else []
        self.buckets = self._inner.buckets or len(self._alone)
        """How many there are, those that no other rank has included."""

    def before(self, part: int, direction: Direction, microbatch: int) -> list[Line]:
        """Give what comes before a pass of a part."""
        return self._inner.before(part, direction, microbatch)

    def after(self, part: int, direction: Direction, microbatch: int, *, last: bool) -> list[Line]:
        """Give what comes after a pass of a part; gradients that it completes leave."""
        lines = self._inner.after(part, direction, microbatch, last=last)
        for effect in [line.effect for line in lines if line.verb == "begin"]:
            if isinstance(effect, Collective) and effect.group == self._held.sharers.group and _reduces(effect):
                lines += self._leave(effect.bucket or 0, effect.size_bytes // self._held.sharers.shard_ranks, effect)
        while last and self._alone and self._alone[0].ready_after_layer >= part:
            bucket = self._alone.pop(0)
            lines += self._leave(self._held.first + bucket.index, bucket.size_bytes, None)
        return lines

    def _leave(self, number: int, size_bytes: int, after: Collective | None) -> list[Line]:
        parameters = self._parameters[number]
        late = self._ties_ends and any(parameter.name == TIED_WEIGHT for parameter in parameters)
        late |= after is None and bool(completed(parameters, number, self._held.partition))
        return self._host.take(Share(HostCopy("to_host", size_bytes, number), len(parameters), after), late=late)

    def settle(self) -> list[Line]:
        """Give what the optimizer waits for."""
        return self._inner.settle()

    def renew(self) -> list[Line]:
        """Give what comes after the optimizer."""
        return self._inner.renew()


def _reduces(effect: Collective) -> bool:
    return effect.kind in ("all_reduce", "reduce_scatter")


def _by_number(held: Held) -> Mapping[int, Sequence[Parameter]]:
    """Give the parameters of each unit or bucket by its number."""
    if held.partition.shards_gradients:
        return {held.number_of(unit): parameters for unit, parameters in held.units.items()}
    return {held.first + bucket.index: bucket.parameters for bucket in held.buckets}


def without_copied(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Leave out gradients whose copy has arrived on the host, until the update gives up all of them."""
    gone = 0
    for entry in entries:
        effect = entry.effect
        during = entry.during._replace(gradients=entry.during.gradients - gone) if gone else entry.during
        if isinstance(effect, HostCompute):
            gone = 0
        if isinstance(effect, Wait) and isinstance(effect.handle.effect, HostCopy):
            gone += effect.handle.effect.size_bytes if effect.handle.effect.kind == "to_host" else 0
        after = entry.after._replace(gradients=entry.after.gradients - gone) if gone else entry.after
        yield Entry(effect, during, after)


def host_bytes(sent_bytes: int, state_copies: int) -> dict[str, int]:
    """Give what a host holds for a rank that sends it so many bytes of gradients, by part.

    >>> host_bytes(4, state_copies=2)
    {'parameters': 4, 'gradients': 4, 'optimizer_state': 8, 'total': 16}
    """
    parts = {"parameters": sent_bytes, "gradients": sent_bytes, "optimizer_state": state_copies * sent_bytes}
    return parts | {"total": sum(parts.values())}
