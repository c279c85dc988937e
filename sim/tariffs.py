"""Tariffs: what the demands of a circle cost each of its rows, as legs: a delay, then work on resources.

The library offers one or more algorithms; of several the one is taken whose slowest row is fastest when nothing else is
active. A leg's delay holds what uses no resource: latencies, software, the filling of pipelines, sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstep.sim.algorithms import Phase, Request
from twinstep.sim.circles import Circle, Demand
from twinstep.sim.emulation import Emulation
from twinstep.sim.libraries import HostTime, Ideal, Library, Offer, offers_of
from twinstep.sim.network import Incidence, Network
from twinstep.sim.notices import NO_NOTICES, Notices

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WEIGHT_UNIT = 2.0**-20


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a communication, for all rows of a circle."""

    delay_s: Floats
    """For each row, before the work begins."""
    work: float
    """Bytes of a flow; seconds, for what was measured on a host."""
    incidence: Incidence
    weight: float
    """What each flow of the incidence weighs; a multiple of 2^-20, so that sums of weights are exact."""
    cap: float = float("inf")
    """The largest rate."""
    crowded_rate: float | None = None
    """The rate while computations fill the cores; None for what needs no cores."""
    tail: float = 0.0
    """Work that is left while the next leg begins."""
    notices: Notices = NO_NOTICES


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a demand costs."""

    algorithm: str
    legs: tuple[Leg, ...]


class Tariffs:
    """Looks costs up for the circles of a plan on a network."""

    def __init__(self, network: Network, capacities: Floats, library: Library, algorithm: str) -> None:
        self._network = network
        self._capacities = capacities
        self._library = library
        self._algorithm = algorithm

    def tariff(self, circle: Circle, demand: Demand, earlier: Tariff | None = None) -> Tariff:
        """Give the cost of a demand for every row of a circle; with an `earlier` tariff, by its algorithm."""
        size_bytes = 0 if demand.kind == "barrier" else demand.size_bytes
        request = Request(demand.kind, circle.size, size_bytes, circle.per_host, demand.splits)
        if circle.is_host_copies:  # by DMA, without a library
            return Tariff("copy", tuple(self._legs(circle, Ideal().offers(request)[0])))
        is_measured = circle.is_on_one_host and circle.is_ours and self._algorithm == "auto"
        measured = self._library.on_host(request) if is_measured else None
        if measured is not None:
            return Tariff("measured", (self._measured(circle, measured),))
        offers = [
            offer
            for offer in offers_of(self._library, request, self._algorithm)
            if earlier is None or offer.algorithm == earlier.algorithm
        ]
        found = [Tariff(offer.algorithm, tuple(self._legs(circle, offer))) for offer in offers]
        return min(found, key=self._alone_s) if len(found) > 1 else found[0]

    def _measured(self, circle: Circle, time: HostTime) -> Leg:
        incidence = self._network.hosts(circle.ranks)
        weight = _rounded(time.cores)
        return Leg(np.zeros(len(circle.nodes)), time.elapsed_s, incidence, weight, 1.0, time.crowded_rate)

    def _legs(self, circle: Circle, offer: Offer) -> Iterator[Leg]:
        incidences = [self._network.incidence(phase.pattern, circle.nodes) for phase in offer.phases]
        weight = _rounded(1 / offer.efficiency)
        emulation = self._network.emulation
        if emulation and offer.step_core_s:  # of a library that was measured there
            yield from self._emulated_legs(emulation, offer, incidences, weight)
            return
        rates = [self._alone_rate(incidence, weight, offer.flow_cap_bytes_per_s) for incidence in incidences]
        steps = [_steps(phase, offer) for phase in offer.phases]
        paths_s = [count * incidence.latency_s for count, incidence in zip(steps, incidences, strict=True)]
        start_s = np.maximum(0.0, offer.least_latency_s - sum(paths_s, np.zeros(len(circle.nodes))))
        for phase, count, incidence, rate, path_s in zip(offer.phases, steps, incidences, rates, paths_s, strict=True):
            fill_s = 0.0 if offer.keeps_many_under_way else phase.fill_bytes / rate
            delay_s = start_s + path_s + count * offer.step_s + fill_s
            delay_s = delay_s + phase.reduced_bytes * offer.reduction_s_per_byte
            notices = Notices(offer.rate_share(0.0))  # windows of real hosts are not known
            yield Leg(delay_s, phase.flow_bytes, incidence, weight, offer.flow_cap_bytes_per_s, notices=notices)
            start_s = np.zeros(len(circle.nodes))

    def _emulated_legs(
        self, emulation: Emulation, offer: Offer, incidences: Sequence[Incidence], weight: float
    ) -> Iterator[Leg]:
        """Give legs whose steps take their time on the machine, and otherwise pass while bytes travel.

        A step that is not seen by itself waits for its turn on the cores and for the one before.
        """
        copied_s = offer.copied_s
        for phase, incidence in zip(offer.phases, incidences, strict=True):
            flows = phase.pattern.flows()
            steps_core_s = len(flows) * phase.steps * offer.step_core_s
            work = max(1.0, phase.flow_bytes + phase.steps * offer.step_bytes / flows.mean())
            busy = self._network.with_steps(incidence, emulation.units(steps_core_s / work / weight))
            visible = 1 if offer.hides_steps else phase.steps
            hidden_s = steps_core_s / emulation.cores + (phase.steps - visible) * offer.step_s
            cap = work / hidden_s if phase.steps > visible else float("inf")
            delay_s = visible * (incidence.latency_s + offer.step_s) + copied_s
            ahead = min(work, emulation.window_bytes) * (1 - 1 / phase.first_of)
            share = offer.rate_share(emulation.window_bytes)
            notices = Notices(share, phase.pattern.direction, offer.opposed_rate)
            yield Leg(delay_s, work - ahead, busy, weight, cap, tail=ahead, notices=notices)
            copied_s = 0.0

    def _alone_rate(self, incidence: Incidence, weight: float, cap: float) -> Floats:
        """Give each row's largest rate when nothing else is active; each flow weighs `weight`."""
        rates = np.full(len(incidence.latency_s), cap)
        limits = self._capacities[incidence.resource] / (incidence.weight * weight)
        np.minimum.at(rates, incidence.row, limits)
        return rates

    def _alone_s(self, tariff: Tariff) -> float:
        """Give the time of the slowest row when nothing else is active."""
        rows = len(tariff.legs[0].delay_s)
        time_s = sum(
            (
                leg.delay_s + leg.work / leg.notices.rate_share / self._alone_rate(leg.incidence, leg.weight, leg.cap)
                for leg in tariff.legs
            ),
            np.zeros(rows),
        )
        return float(time_s.max())


def _steps(phase: Phase, offer: Offer) -> int:
    """Count the steps of a phase whose latencies follow each other."""
    return phase.depth if offer.keeps_many_under_way and phase.depth is not None else phase.steps


def _rounded(weight: float) -> float:
    return max(1, round(weight / _WEIGHT_UNIT)) * _WEIGHT_UNIT
