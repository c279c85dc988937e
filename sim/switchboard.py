"""Switchboard: connects the ranks that are simulated with the communicators that they mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import numpy as np
import simpy
from numpy.typing import NDArray

from twinstep.effects import Collective, Communication, HostCopy, Transfer
from twinstep.sim.algorithms import Kind
from twinstep.sim.cast import Cast, Tables
from twinstep.sim.circles import Circle, Demand
from twinstep.sim.communication import Communicator
from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.meetings import Meeting, Stream, Streams
from twinstep.sim.network import Incidence
from twinstep.sim.running import Part, Prices
from twinstep.sim.setup import Setup
from twinstep.sim.tariffs import Leg

Ints = NDArray[np.int64]

OTHERS = -1
"""Stands for the rank of whoever is not a rank of the plan."""


class Switchboard:
    """All communicators of a simulation, made when they are first asked for."""

    def __init__(
        self,
        env: simpy.Environment,
        fluid: Fluid,
        cast: Cast,
        setup: Setup,
        on_complete: Callable[[str, Meeting], None],
    ) -> None:
        self.communicators: dict[tuple[int, int], Communicator] = {}
        self.tables: Tables = ()
        """What everything costs now."""
        self._env = env
        self._fluid = fluid
        self._cast = cast
        self._setup = setup
        self._circles = setup.circles
        self._by_key: dict[Hashable, list[int]] = defaultdict(list)
        for index, circle in enumerate(setup.circles):
            self._by_key[circle.key].append(index)
        self._on_complete = on_complete
        self._rows = [_rows_of_ranks(circle, len(cast.ranks)) for circle in setup.circles]
        self._streams: dict[Hashable, Stream] = {}
        self._dead: set[int] = set()
        self._parts: dict[Hashable, Sequence[Part]] = {}
        self._loads: dict[tuple[int, int, float], Mapping[int, Sequence[Load]]] = {}

    def use(self, tables: Tables) -> None:
        """Charge these costs from now on, also for what remains of what is under way."""
        self.tables = tables
        self._parts.clear()
        for communicator in self.communicators.values():
            communicator.reprice()

    def hang_up(self, rank: int) -> None:
        """Let all communication with a rank fail, from now on."""
        self._dead.add(rank)
        for communicator in self.communicators.values():
            if communicator.includes(rank):
                communicator.break_off()

    def _prices(self, circle: int, row: int) -> Prices:
        """Give what looks the costs of a row up that stands for others."""
        return partial(self._priced, circle, row)

    def _priced(self, circle: int, row: int, effect: Communication) -> Sequence[Part]:
        kind: Kind = effect.kind if type(effect) is Collective else "send"
        splits = effect.splits if type(effect) is Collective else None
        key = (circle, row, kind, effect.size_bytes, splits)
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = [
                self._part(circle, row, leg)
                for leg in self.tables[circle][Demand(kind, effect.size_bytes, splits)].legs
            ]
        return parts

    def _part(self, circle: int, row: int, leg: Leg) -> Part:
        loads = self._scaled(circle, leg.incidence, leg.weight).get(row, ())
        answering = leg.incidence.answers
        answers = self._scaled(circle, answering, leg.weight).get(row, ()) if answering is not None else ()
        return Part(float(leg.delay_s[row]), leg.work, loads, leg.cap, leg.crowded_rate, leg.tail, leg.notices, answers)

    def _scaled(self, circle: int, incidence: Incidence, weight: float) -> Mapping[int, Sequence[Load]]:
        key = (circle, id(incidence), weight)
        if key not in self._loads:
            loads = self._cast.loads(circle, incidence)
            self._loads[key] = {
                row: [Load(resource, all_rows * weight, own * weight) for resource, all_rows, own in found]
                for row, found in loads.items()
            }
        return self._loads[key]

    def connect(self, rank: int, effect: Communication) -> Communicator:
        """Find the communicator that a rank means: that of the row which stands for the rank's own."""
        side = 0
        key: Hashable
        if isinstance(effect, HostCopy):
            key = effect.kind
        elif isinstance(effect, Collective):
            key = effect.group
        else:
            side = 0 if effect.kind == "send" else 1
            key = (effect.group, effect.lane, effect.source, effect.target)
        circle = next(index for index in self._by_key[key] if self._rows[index][side, rank] >= 0)
        row = int(self._cast.rows[circle][self._rows[circle][side, rank]])
        if (circle, row) not in self.communicators:
            self.communicators[circle, row] = self._communicator(circle, row)
        return self.communicators[circle, row]

    def background(self, circle: int, effect: Communication) -> Communicator:
        """Give a communicator of its own to the traffic of others, which nobody but it takes part in."""
        member = (OTHERS, effect.kind if type(effect) is Transfer else "")
        prices = self._prices(circle, 0)
        communicator = Communicator(self._env, self._fluid, prices, 1, [member], lambda meeting: None)
        self.communicators[circle, 0] = communicator
        return communicator

    def _communicator(self, index: int, row: int) -> Communicator:
        circle = self._circles[index]
        ranks = self._cast.ranks[circle.ranks[row]].tolist()
        sides = ("send", "recv") if circle.is_channel else ("",) * len(ranks)
        members = list(dict.fromkeys(zip(ranks, sides, strict=True)))
        name = self._setup.programs.groups[circle.group].name_of(int(circle.ranks[row, 0]))
        communicator = Communicator(
            self._env,
            self._fluid,
            self._prices(index, row),
            1 if circle.is_host_copies else self._setup.slots,
            members,
            partial(self._on_complete, name),
            one_connection=self._setup.has_streams,
            streams=self._streams_of(circle, row) if self._setup.has_streams else None,
        )
        if self._dead.intersection(ranks):
            communicator.break_off()
        return communicator

    def _streams_of(self, circle: Circle, row: int) -> Streams | None:
        """Give both directions of a channel's connection; None for a group."""
        if not isinstance(circle.key, tuple):
            return None
        source, target = circle.ranks[row].tolist()
        forth = self._streams.setdefault((circle.key[0], source, target), Stream())
        return Streams(forth, self._streams.setdefault((circle.key[0], target, source), Stream()))


def _rows_of_ranks(circle: Circle, ranks: int) -> Ints:
    """Give each rank's row of a circle, -1 where it is in none: as a member or sender, and as a receiver."""
    rows = np.full((2, ranks), -1, dtype=np.int64)
    numbers = np.arange(len(circle.nodes))
    if circle.is_channel:
        rows[0, circle.ranks[:, 0]] = numbers
        rows[1, circle.ranks[:, 1]] = numbers
    else:
        rows[0, circle.ranks.ravel()] = np.repeat(numbers, circle.ranks.shape[1])
    return rows
