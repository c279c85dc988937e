"""Network: the resources of a topology, and which of them the flows of a group use.

Resources are the links, by their index in the topology (the two directions of a half-duplex link are one), after them
the hosts, whose capacity is cores, and last the machine that emulates them all, where one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import InputError, RunError
from twinstep.sim.algorithms import Pattern
from twinstep.sim.emulation import Emulation
from twinstep.topologies import Policy, Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MOST_PAIRS_AT_ONCE = 2**20


class Incidence(NamedTuple):
    """What flows weigh on resources: row[i] needs weight[i] of resource[i]'s capacity for each flow at rate 1."""

    row: Ints
    resource: Ints
    weight: Floats
    """The number of flows that cross a link, for flows that are not divided."""
    latency_s: Floats
    """For each row, that of the longest path."""
    answers: Incidence | None = None
    """Acknowledgements on links that carry nothing else of a row; None where there are none."""


class Resources:
    """The links and hosts of a topology as resources of a fluid."""

    def __init__(self, topology: Topology, machine_cores: int, emulation: Emulation | None = None) -> None:
        links = topology.links
        by_name: dict[str, int] = {}
        shared = [by_name.setdefault(link.shared, index) if link.shared else index for index, link in enumerate(links)]
        self.of_link = np.array(shared, dtype=np.int64)
        """The resource of each link."""
        cores = [float(cores or machine_cores) for cores in topology.host_cores]
        machine = [emulation.capacity] if emulation else []
        self.capacities = np.array([*(link.bandwidth_bytes_per_s for link in links), *cores, *machine])
        self.emulation = emulation
        self.machine = len(self.capacities) - 1
        """The resource of the machine that emulates all hosts; of no meaning where none does."""
        host_index = {host: len(links) + index for index, host in enumerate(topology.hosts)}
        self.host_of_device = np.array([host_index[host] for host in topology.device_hosts])
        """The resource of each device's host."""


class Network:
    """The routes of a topology, as loads on resources."""

    def __init__(self, topology: Topology, resources: Resources, policy: Policy, dead: frozenset[int] = frozenset()):
        self._topology = topology
        self._resources = resources
        self._routes = topology.routes(policy, dead)
        self._some_dead = bool(dead)
        self.emulation = resources.emulation
        self._known: dict[tuple[Pattern | None, int], tuple[Ints, Incidence]] = {}

    def incidence(self, pattern: Pattern, nodes: Ints) -> Incidence:
        """Load the resources with the flows of a pattern among each row of nodes; the same for the same array.

        Raises InputError where nodes cannot reach each other, RunError where they no longer can.
        """
        return self._once(pattern, nodes, lambda: self._loaded(pattern, nodes))

    def hosts(self, ranks: Ints) -> Incidence:
        """Load one core of the host of each row's first rank; the same for the same array."""
        return self._once(None, ranks, lambda: self._cores(ranks[:, 0]))

    def _once(self, pattern: Pattern | None, array: Ints, load: Callable[[], Incidence]) -> Incidence:
        key = (pattern, id(array))
        if key not in self._known:
            self._known[key] = (array, load())  # with the array, so that its id stays its own
        return self._known[key][1]

    def _loaded(self, pattern: Pattern, nodes: Ints) -> Incidence:
        """Load some rows, or some pairs of one row, after others, so that memory is bounded."""
        sources, targets = pattern.pairs()
        flows = pattern.flows()
        rows_at_once = max(1, _MOST_PAIRS_AT_ONCE // max(1, len(sources)))
        pairs_at_once = len(sources) if pattern.merged else _MOST_PAIRS_AT_ONCE
        latency_s = np.zeros(len(nodes))
        parts, answers = [], []
        for row in range(0, len(nodes), rows_at_once):
            some = nodes[row : row + rows_at_once]
            for pair in range(0, len(sources), max(1, pairs_at_once)):
                end = pair + pairs_at_once
                part = self._part(pattern, some, sources[pair:end], targets[pair:end], flows[pair:end])
                if part.answers is not None:
                    answers.append(part.answers._replace(row=part.answers.row + row))
                latency_s[row : row + rows_at_once] = np.maximum(latency_s[row : row + rows_at_once], part.latency_s)
                parts.append(part._replace(row=part.row + row, answers=None))
        return _answered(parts, answers, latency_s, len(self._resources.capacities))

    def _part(self, pattern: Pattern, nodes: Ints, sources: Ints, targets: Ints, flows: Ints) -> Incidence:
        pairs = len(sources)
        paths = self._routes.paths(nodes[:, sources].ravel(), nodes[:, targets].ravel())
        if len(paths.unreached):
            row, pair = divmod(int(paths.unreached[0]), pairs)
            ends = (self._topology.nodes[nodes[row, end[pair]]] for end in (sources, targets))
            problem = "no path leads from {!r} to {!r}".format(*ends)
            if self._some_dead:
                raise RunError(f"{problem}: a link that failed was the only one")
            raise InputError(problem, remedy="add the links that are missing")
        rows, links, shares = paths.pair // pairs, paths.link, paths.share * flows[paths.pair % pairs]
        if pattern.merged:
            rows, links, shares = _without_repeats(rows, links, shares)
        latency_s = paths.latency_s.reshape(len(nodes), -1).max(axis=1, initial=0.0)
        found = [Incidence(rows, self._resources.of_link[links], shares, latency_s)]
        resources = len(self._resources.capacities)
        if self.emulation is None:
            return _sum(found, latency_s, resources)
        found.append(self._on_machine(self.emulation, rows, links, shares, len(nodes), int(flows.sum())))
        answers = self._answers(self.emulation, rows, links, shares)
        return _sum(found, latency_s * self.emulation.costs.delays_links, resources)._replace(answers=answers)

    def _answers(self, emulation: Emulation, rows: Ints, links: Ints, shares: Floats) -> Incidence:
        """Load the links back with acknowledgements."""
        back = emulation.back[links]
        answered = (back >= 0) & (emulation.acknowledged[links] > 0)
        weights = shares[answered] * emulation.acknowledged[links[answered]]
        return Incidence(rows[answered], self._resources.of_link[back[answered]], weights, np.zeros(0))

    def _on_machine(
        self, emulation: Emulation, rows: Ints, links: Ints, shares: Floats, count: int, flows: int
    ) -> Incidence:
        """Load the machine with all that is done for the flows."""
        per_byte = shares * emulation.per_byte[links]
        on_machine = np.bincount(rows, weights=per_byte, minlength=count).astype(np.float64)
        machine = np.full(count, self._resources.machine)
        units = np.maximum(1.0, on_machine + flows * emulation.per_end)
        return Incidence(np.arange(count), machine, units, np.zeros(count))

    def with_steps(self, incidence: Incidence, core_units_per_byte: float) -> Incidence:
        """Load the machine that emulates all hosts with its units for each byte of a flow, too."""
        extra = np.where(incidence.resource == self._resources.machine, core_units_per_byte, 0.0)
        return incidence._replace(weight=incidence.weight + extra)

    def _cores(self, ranks: Ints) -> Incidence:
        hosts = self._resources.host_of_device[ranks]
        return Incidence(np.arange(len(ranks)), hosts, np.ones(len(ranks)), np.zeros(len(ranks)))


def _answered(parts: Sequence[Incidence], answers: Sequence[Incidence], latency_s: Floats, resources: int) -> Incidence:
    """Add acknowledgements to what a row's own flows weigh on a link; those on other links stand by themselves.

    They go before all else, so a link that is full of others' flows does not slow down what they answer.
    """
    carried = _sum(parts, latency_s, resources)
    if not answers:
        return carried
    found = _sum(answers, latency_s, resources)
    beside = np.isin(found.row * resources + found.resource, carried.row * resources + carried.resource)
    own, others = (
        Incidence(found.row[chosen], found.resource[chosen], found.weight[chosen], latency_s)
        for chosen in (beside, ~beside)
    )
    return _sum([carried, own], latency_s, resources)._replace(answers=others)


def _sum(parts: Sequence[Incidence], latency_s: Floats, resources: int) -> Incidence:
    """Add up what parts weigh on each resource for each row."""
    key = np.concatenate([part.row * resources + part.resource for part in parts] or [np.zeros(0, dtype=np.int64)])
    key, entry = np.unique(key, return_inverse=True)
    weights = np.concatenate([part.weight for part in parts] or [np.zeros(0)])
    summed = np.bincount(entry, weights=weights, minlength=len(key)).astype(np.float64)
    row, resource = np.divmod(key[summed > 0], resources)
    return Incidence(row, resource, summed[summed > 0], latency_s)


def _without_repeats(row: Ints, link: Ints, share: Floats) -> tuple[Ints, Ints, Floats]:
    """Count each link once a row, with its largest share."""
    order = np.lexsort((-share, link, row))
    row, link, share = row[order], link[order], share[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (link[1:] != link[:-1])
    return row[first], link[first], share[first]
