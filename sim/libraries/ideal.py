"""Ideal: the fastest of all algorithms, in-network reduction included, without any cost of software.

For a single collective nothing here is faster. `step_s` and `reduction_s_per_byte` are for
comparisons with other simulators, which have such terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from twinstep.sim.algorithms import ALGORITHMS, Phases, Request, send
from twinstep.sim.libraries.offer import HostTime, Offer


@dataclass(frozen=True, slots=True)
class Ideal:
    """A library without overhead, but for what is given here."""

    step_s: float = 0.0
    """Added to each step."""
    reduction_s_per_byte: float = 0.0
    """Added for each byte that is summed."""
    slots: int = 1
    """One collective of a group after another: what shares a link ends late, all of it."""
    reduces_in_network: bool = True
    has_streams: bool = False

    def on_host(self, request: Request) -> HostTime | None:
        """Nothing was measured."""
        return None

    def offers(self, request: Request) -> Sequence[Offer]:
        """List every algorithm, pipelines with as many pieces under way as it takes."""
        if request.kind == "send":
            return [self.run("send", send(request), request)]
        found = ((name, algorithm(request)) for name, algorithm in ALGORITHMS.items())
        offers = [self.run(name, phases, request) for name, phases in found if phases is not None]
        return [replace(offer, keeps_many_under_way=True) for offer in offers]

    def run(self, algorithm: str, phases: Phases, request: Request) -> Offer:
        """Add the terms that were given."""
        return Offer(algorithm, phases, step_s=self.step_s, reduction_s_per_byte=self.reduction_s_per_byte)
