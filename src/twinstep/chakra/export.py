"""Export: one trace file a rank, and the file that says who is in which group."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

from twinstep.chakra.schema import Encoder
from twinstep.chakra.trace import CommGroups, RankTrace, message_lanes
from twinstep.costs import compute_s, device_costs
from twinstep.effects import Compute, Effect
from twinstep.errors import InputError
from twinstep.programs import first_steps, lower
from twinstep.report.files import make_folder, write_atomically
from twinstep.scenario import Scenario
from twinstep.topologies import DeviceRates

GROUPS_FILE = "comm_group.json"


class Written(NamedTuple):
    """What an export wrote."""

    prefix: Path
    """The files are `<prefix>.<rank>.et`: what ASTRA-sim calls the workload configuration."""
    ranks: int
    nodes: int


def export_traces(scenario: Scenario, folder: Path, progress: Callable[[float], None] = lambda share: None) -> Written:
    """Write the first step of each rank as a Chakra trace, and last the groups; one rank is in memory at a time.

    `progress` is told the share that is done. Raises InputError where protobuf is missing or a file cannot be written.
    """
    encoder = Encoder()
    programs = lower(scenario.plan).outline
    if programs.reactive or programs.period > 1:
        problem = f"sync.method {scenario.plan.sync.method} has no trace: its ranks do not do the same in every step"
        raise InputError(problem, remedy="export a plan with sync.method all_reduce, or averaging in every step")
    if scenario.plan.partition.offload != "none":
        problem = (
            f"partition.offload {scenario.plan.partition.offload} has no trace: the format has no host's processor"
        )
        raise InputError(problem, remedy="set partition.offload to none", place=scenario.name)
    ranks = range(scenario.plan.ranks)
    alike = {programs.key(rank): rank for rank in reversed(ranks)}
    effects: dict[Hashable, list[Effect]] = {key: first_steps(programs.program(rank)) for key, rank in alike.items()}
    comm = CommGroups(programs.groups)
    lanes = message_lanes(effects.values())
    make_folder(folder)
    prefix = folder / scenario.name
    count = 0
    for rank in ranks:
        trace = RankTrace(rank, comm, lanes, _compute_s(scenario, rank))
        nodes = list(trace.nodes(effects[programs.key(rank)]))
        write_atomically(folder / f"{scenario.name}.{rank}.et", encoder.trace(nodes))
        count += len(nodes)
        progress((rank + 1) / len(ranks))
    write_atomically(folder / GROUPS_FILE, json.dumps({str(number): row for number, row in comm.by_id().items()}))
    return Written(prefix, len(ranks), count)


def _compute_s(scenario: Scenario, rank: int) -> Callable[[Compute], float] | None:
    """Give how long a rank's computations take, in seconds; None where that would have to be measured."""
    spec = scenario.topology.device_profile(scenario.topology.devices[scenario.plan.devices[rank]])
    if not isinstance(spec, DeviceRates):
        return None
    costs, slowdown = device_costs(spec, None, busy_cores=1), scenario.plan.slowdown(rank)
    return lambda effect: compute_s(effect, costs) * slowdown
