"""Effects: what a rank can do. A rank program is a generator of effects, and both back ends run it.

The simulator charges each effect its predicted time; the executor does it. Either sends the effect's result back into
the generator and records one span under the effect's `operation`. Programs build their effects once and yield the
same frozen objects in every step.

| effect | what happens | result |
|---|---|---|
| `Mark` | a step begins or ends | None |
| `Compute` | the device runs kernels; the program goes on when they are done | the loss where it really computes one |
| `Collective` | the group communicates on a lane of its own; the program goes on at once, or after it | a handle |
| `Transfer` | a message to or from one rank of the group travels; the program goes on at once | a handle |
| `HostCopy` | bytes travel between the device and its host; the program goes on at once | a handle |
| `HostCompute` | the host's processor runs kernels; the program goes on when they are done | None |
| `Wait` | the program goes on when the handle's communication is complete | None |
| `Next` | the program goes on when an announced receive is complete, the first that is | its handle |
| `Synchronize` | the program goes on when the device has done all that came before | None |
| `Learn` | the program's own arithmetic is done; no time is modelled for it | what that gives |
| `Observe` | a value is recorded | None |

A communication may have contents: an array that is sent, or filled, in place. Its program leaves them alone from the
beginning of the communication until it has waited for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from twinstep.kernels import Kernel
from twinstep.splits import Splits
from twinstep.timeline import CollectiveKind, Phase

Contents = NDArray[Any]
ElementType = Literal["float32", "float16", "bfloat16", "uint8"]
"""What a collective's buffer holds; arrays of uint16 carry bfloat16, which numpy lacks."""


def _named(name: str, **coordinates: int | str | None) -> str:
    """Name an operation with the coordinates that it has.

    >>> _named("forward", layer=2, microbatch=None)
    'forward[layer=2]'
    """
    known = ",".join(f"{key}={value}" for key, value in coordinates.items() if value is not None)
    return f"{name}[{known}]" if known else name


class Mark(NamedTuple):
    """The beginning or the end of a step."""

    event: Literal["step_begin", "step_end"]
    step: int


@dataclass(frozen=True, slots=True)
class Compute:
    """Kernels that the rank's device runs one after another.

    >>> Compute("forward", (Kernel("relu_forward", (8,)),), layer=2).operation
    'forward[layer=2]'
    """

    phase: Phase
    kernels: tuple[Kernel, ...]
    layer: int | None = None
    microbatch: int | None = None
    bucket: int | None = None
    round: int | None = None
    """Which of a bucket's collectives it prepares, where there are several."""
    operation: str = field(init=False)

    def __post_init__(self) -> None:
        coordinates = {"bucket": self.bucket, "round": self.round, "layer": self.layer, "microbatch": self.microbatch}
        object.__setattr__(self, "operation", _named(self.phase, **coordinates))

    @property
    def work_flops(self) -> float:
        """Count the floating-point operations of all kernels."""
        return sum(kernel.work_flops for kernel in self.kernels)

    @property
    def bytes_moved(self) -> float:
        """Count the bytes that all kernels read and write at the least."""
        return sum(kernel.bytes_moved for kernel in self.kernels)


@dataclass(frozen=True, slots=True)
class HostCompute(Compute):
    """Kernels that the processor of the rank's host runs, while the device waits. Only the simulator does it."""


@dataclass(frozen=True, slots=True)
class Collective:
    """A communication of all ranks of a group; every one of them must issue it, in the same order.

    `size_bytes` is that of the rank's whole buffer: for all_gather the output, for reduce_scatter and all_to_all the
    input, for gather and scatter all shares together. Where parts are unequal it is the mean of the ranks' inputs.

    >>> Collective("all_reduce", group="data", size_bytes=4096, lane="data", bucket=0).operation
    'all_reduce[bucket=0]'
    """

    kind: CollectiveKind
    group: str
    size_bytes: int
    lane: str
    bucket: int | None = None
    layer: int | None = None
    microbatch: int | None = None
    during: Phase | None = None
    """The phase that it belongs to, where forward and backward have one each."""
    round: int | None = None
    """Which of a bucket's collectives it is, where there are several."""
    dtype: ElementType = "float32"
    splits: Splits | None = None
    """The parts of an all_to_all that are unequal."""
    blocks_host: bool = False
    """Whether a program whose device is a core of its host goes on only when it is complete (torch's `async_op=False`);
    an accelerator's goes on at once."""
    contents: Contents | None = field(default=None, compare=False, repr=False)
    """What is summed, where the kind is all_reduce; one row a rank, of which each gives its own, for all_gather."""
    operation: str = field(init=False)
    wait_operation: str = field(init=False)
    """What a `Wait` for it is called."""

    @property
    def line(self) -> str:
        """What a rank issues in turn: the communications of one group."""
        return self.group

    def __post_init__(self) -> None:
        coordinates = {
            "bucket": self.bucket,
            "round": self.round,
            "layer": self.layer,
            "microbatch": self.microbatch,
            "pass": self.during,
        }
        name = _named(self.kind, **coordinates)
        object.__setattr__(self, "operation", name)
        object.__setattr__(self, "wait_operation", f"wait[{name}]")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A message between two ranks of a group, as one of them sees it: `kind` says which.

    Messages from one rank to another on one lane arrive in the order in which they were sent.

    >>> Transfer("send", "pipeline", source=0, target=1, size_bytes=8, lane="activations", microbatch=0).operation
    'send activations[hop=0>1,microbatch=0]'
    """

    kind: Literal["send", "recv"]
    group: str
    source: int
    """The position in the group of the rank that sends."""
    target: int
    """The position in the group of the rank that receives."""
    size_bytes: int
    lane: str
    layer: int | None = None
    microbatch: int | None = None
    round: int | None = None
    """Which of several in one pass of a layer it is."""
    announced: bool = False
    """For a receive: whether `Next` tells of it; nobody waits for it then."""
    contents: Contents | None = field(default=None, compare=False, repr=False)
    operation: str = field(init=False)
    wait_operation: str = field(init=False)
    """What a `Wait` for it is called."""
    line: Hashable = field(init=False, compare=False, repr=False)
    """What a rank issues in turn: the messages of one channel, at one of its ends."""

    def __post_init__(self) -> None:
        hop = f"{self.source}>{self.target}"
        coordinates = {"hop": hop, "round": self.round, "layer": self.layer, "microbatch": self.microbatch}
        name = _named(f"{self.kind} {self.lane}", **coordinates)
        object.__setattr__(self, "line", (self.kind, self.group, self.lane, self.source, self.target))
        object.__setattr__(self, "operation", name)
        object.__setattr__(self, "wait_operation", f"wait[{name}]")

    @property
    def peer(self) -> int:
        """The position in the group of the rank at the other end."""
        return self.target if self.kind == "send" else self.source


@dataclass(frozen=True, slots=True)
class HostCopy:
    """A copy between the memory of a device and that of its host. Only the simulator does it.

    >>> HostCopy("to_host", size_bytes=8, bucket=0).operation
    'to_host[bucket=0]'
    """

    kind: Literal["to_host", "to_device"]
    size_bytes: int
    bucket: int
    after: Handle | None = field(default=None, compare=False, repr=False)
    """A communication that must be complete before the copy begins."""
    operation: str = field(init=False)
    wait_operation: str = field(init=False)
    """What a `Wait` for it is called."""

    def __post_init__(self) -> None:
        name = _named(self.kind, bucket=self.bucket)
        object.__setattr__(self, "operation", name)
        object.__setattr__(self, "wait_operation", f"wait[{name}]")

    @property
    def lane(self) -> str:
        """Each direction is a lane of its own."""
        return self.kind

    @property
    def line(self) -> str:
        """What a rank issues in turn: the copies of one direction."""
        return self.kind

    @property
    def contents(self) -> None:
        """Copies carry nothing that anybody looks at."""
        return


Communication = Collective | Transfer | HostCopy


class Handle(Protocol):
    """A communication under way, as a back end represents it."""

    @property
    def effect(self) -> Communication:
        """The effect that began it."""
        ...

    @property
    def failed(self) -> bool:
        """Whether it came to nothing, since the rank at the other end died; known once the program has waited."""
        ...


class Wait(NamedTuple):
    """Go on when a communication is complete."""

    handle: Handle

    @property
    def operation(self) -> str:
        """Name the wait after what it waits for."""
        return self.handle.effect.wait_operation


class Next(NamedTuple):
    """Go on with the announced receive that was complete first, of those that were not given before."""

    operation: str = "next"


class Synchronize(NamedTuple):
    """Go on when the device has done all that came before: what the program does next happens at the device's time."""

    operation: str = "synchronize"


class Learn(NamedTuple):
    """Compute a worker's gradients or losses. It takes real time; the modelled one is that of `Compute`."""

    work: Callable[[], float | None]
    operation: str = "learn"


class Observe(NamedTuple):
    """Record a value that the program knows, e.g. a loss."""

    name: str
    value: float
    operation: str = "observe"


Effect = Mark | Compute | Communication | Wait | Next | Synchronize | Learn | Observe
Program = Generator[Effect, Any, None]
"""A rank's behaviour: yields effects, is sent their results (a `Handle` for a communication or `Next`; see above)."""
