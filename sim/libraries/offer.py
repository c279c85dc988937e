"""Offer: an algorithm as a library would run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twinstep.sim.algorithms import ALGORITHMS, Phases, Request


@dataclass(frozen=True, slots=True)
class Offer:
    """Phases of flows, and what the library adds to them."""

    algorithm: str
    """Its name, for people."""
    phases: Phases
    step_s: float = 0.0
    """For each step, beyond the latency of its path."""
    least_latency_s: float = 0.0
    """The least that the latencies of all steps add up to."""
    efficiency: float = 1.0
    """Payload as a fraction of what links carry for it: headers, flags, gaps."""
    keeps_many_under_way: bool = False
    """Whether the next segment is sent before the last has arrived: a pipeline pays latency for its depth alone, and
    is filled with pieces as small as it takes."""
    flow_cap_bytes_per_s: float = float("inf")
    """The largest rate of a flow's payload."""
    reduction_s_per_byte: float = 0.0
    """For each byte that a rank adds to its own."""
    hides_steps: bool = False
    """Whether a step's latency passes while the bytes of the one before travel: only what bytes do not cover counts."""
    step_core_s: float = 0.0
    """Core seconds of the machine that emulates all hosts, for each rank's step."""
    step_bytes: float = 0.0
    """For each rank's step, beyond its payload."""
    waiting_share: float = 0.0
    """How much longer the bytes take, as a fraction, because notices wait behind long messages."""
    message_bytes: float = float("inf")
    """How long such a message is, on average."""
    opposed_rate: float = 1.0
    """The fraction of its rate that is left while another of its group goes around the ring in the other direction."""
    copied_s: float = 0.0
    """For copies on every rank, before the first byte or after the last."""

    def rate_share(self, window_bytes: float) -> float:
        """Give the fraction that it gets of the rate that links allow it alone, on average.

        Of messages to several ranks, each passes its window before the next gets a turn: what fits into one goes one
        after another, and makes nobody wait.
        """
        beyond = max(0.0, 1 - window_bytes / self.message_bytes) if self.message_bytes else 0.0
        return 1 / (1 + self.waiting_share * beyond)


@dataclass(frozen=True, slots=True)
class HostTime:
    """A collective among ranks of one host, as it was measured there."""

    elapsed_s: float
    cores: float
    """How many of the host's cores it keeps busy."""
    crowded_rate: float
    """How fast it is while computations fill the cores, as a fraction."""


class Library(Protocol):
    """What carries the communication."""

    @property
    def slots(self) -> int:
        """How many collectives of a group are under way at once."""
        ...

    @property
    def has_streams(self) -> bool:
        """Whether all between two ranks of a group goes over one connection, in order, notices included."""
        ...

    def on_host(self, request: Request) -> HostTime | None:
        """Give the measured time of a collective whose ranks share a host; None where there is none."""
        ...

    def offers(self, request: Request) -> Sequence[Offer]:
        """List the ways that the library itself would choose from, by their time."""
        ...

    @property
    def reduces_in_network(self) -> bool:
        """Whether `best` may count on switches that reduce, wherever they are."""
        ...

    def run(self, algorithm: str, phases: Phases, request: Request) -> Offer:
        """Give a named algorithm with what this library adds to it."""
        ...


def offers_of(library: Library, request: Request, algorithm: str) -> Sequence[Offer]:
    """List what a plan lets a library choose from: its own choice, that and all there are, or one that a plan forces.

    An algorithm that has no such collective leaves the library its own choice.
    """
    own = library.offers(request)
    if algorithm == "auto" or request.kind == "send":
        return own
    wanted = [name for name in ALGORITHMS if library.reduces_in_network or name != "in_network"]
    found = ((name, ALGORITHMS[name](request)) for name in (wanted if algorithm == "best" else [algorithm]))
    forced = [library.run(name, phases, request) for name, phases in found if phases is not None]
    return [*own, *forced] if algorithm == "best" else forced or own
