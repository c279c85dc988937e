"""One rank of a run, from joining the group to handing in what it measured.

The supervisor forks ranks on one machine; `worker.py` is a rank that torchrun has started. Ranks of one machine share
its monotonic clock. On several machines every rank's times are relative to its own release from a common barrier,
since their clocks do not agree: the error is what the barrier's last message needs to arrive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from twinstep.costs import compute_s, device_costs
from twinstep.effects import Compute
from twinstep.exec.board import Seat
from twinstep.exec.calls import Calls, Joined
from twinstep.exec.device import Device, EmulatedDevice, HostDevice
from twinstep.exec.engine import run_program
from twinstep.exec.gloo_threads import keep_watchers_from_preempting
from twinstep.exec.pending import Record, now_ns
from twinstep.exec.training import SharedTraining, Training
from twinstep.plan import Plan
from twinstep.profile import Profile, read_profile
from twinstep.programs import DataParallel, SharedMemory, Strategy, first_steps, lower, own_names
from twinstep.scenario import load_scenario
from twinstep.timeline import Observation, Span
from twinstep.topologies import DeviceSpec, Topology

TIMEOUT_MARGIN_S = 10.0
"""How much longer torch waits than the supervisor, so that the supervisor can name the rank that keeps the others."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all ranks of a run have in common."""

    programs: Strategy
    """The plan, lowered before ranks are forked, so that they share the memory that the programs share."""
    topology: Topology
    profile: Profile | None
    one_machine: bool
    """Whether all ranks share a monotonic clock."""

    @property
    def plan(self) -> Plan:
        """Give the plan."""
        return self.programs.plan

    def spec(self, rank: int) -> DeviceSpec:
        """Give what a rank's device is."""
        return self.topology.device_profiles[self.plan.devices[rank]]


def read_job(folder: Path) -> Job:
    """Read what `measure` put into the folder of a run on this machine."""
    scenario = load_scenario(str(folder / "plan.yaml"))
    profile = folder / "profile.json"
    known = read_profile(profile) if profile.is_file() else None
    return Job(lower(scenario.plan), scenario.topology, known, one_machine=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What rank 0 has collected from all ranks."""

    spans: tuple[Span, ...]
    observations: tuple[Observation, ...]
    losses: tuple[float, ...]
    """The global loss of every step; empty where compute is emulated."""
    parameters: Mapping[str, Tensor]
    """Rank 0's parameters, or those that all share, after the last step; empty where compute is emulated."""


class _Records(NamedTuple):
    """What one rank hands in."""

    spans: list[Span]
    observations: list[Observation]


def run_rank(job: Job, rank: int, store: dist.Store, seat: Seat, local_rank: int) -> Result | None:
    """Join the group, run the program, collect the results on rank 0 (None on the others)."""
    torch.set_num_threads(1)
    plan = job.plan
    programs = job.programs
    on_gpu = job.spec(rank) == "cuda" and plan.run.compute == "real"
    timeout = timedelta(seconds=plan.run.timeout + TIMEOUT_MARGIN_S)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=plan.ranks, timeout=timeout
    )
    groups = _join_groups(programs, rank, timeout)
    if plan.is_on_emulated_cluster:
        keep_watchers_from_preempting()
    device, training = _make_device(job, programs, rank, groups, local_rank if on_gpu else None)
    seat.note(-1, "first barrier", blocked=True)
    dist.barrier()
    origin_ns = _origin_ns(job)
    run_program(programs.program(rank), device, seat)
    seat.note(plan.run.warmup + plan.run.steps, "handing in results", blocked=rank != 0)
    name_of = own_names(programs.groups)
    spans = [_to_span(rank, origin_ns, record, name_of) for record in device.records()]
    observations = [
        Observation(rank, step, (time_ns - origin_ns) * 1e-9, name, value)
        for step, time_ns, name, value in device.observed()
    ]
    losses = _global_losses(training)
    result = _collect(rank, store, seat, _Records(spans, observations), losses, training)
    dist.barrier()
    dist.destroy_process_group()
    return result


def _join_groups(programs: Strategy, rank: int, timeout: timedelta) -> Mapping[str, Joined]:
    """Make all groups, as every rank must, and give those that the rank is in, by kind."""
    joined = {}
    for kind, groups in programs.groups.items():
        for ranks in groups.ranks.tolist():
            group = dist.new_group(ranks, timeout=timeout)
            if rank in ranks:
                joined[kind] = Joined(group, tuple(ranks), ranks.index(rank))
    return joined


def _make_device(
    job: Job, programs: Strategy, rank: int, groups: Mapping[str, Joined], gpu: int | None
) -> tuple[Device, Training | None]:
    plan = job.plan
    if plan.run.compute == "emulated":
        pace = partial(plan.pace, rank)
        return EmulatedDevice(Calls(groups).begin, _modelled_s(job, programs, rank), pace), None
    if isinstance(programs, SharedMemory):
        worker = SharedTraining(programs, rank)
        return HostDevice(worker, groups, plan.slowdown(rank)), worker
    if not isinstance(programs, DataParallel):
        raise TypeError("only data parallelism has an executor with real compute")
    if gpu is not None:
        from twinstep.exec.cuda import CudaDevice

        torch.cuda.set_device(gpu)
        training = Training(programs, rank, torch.device("cuda", gpu))
        return CudaDevice(training, groups), training
    training = Training(programs, rank, torch.device("cpu"))
    return HostDevice(training, groups, plan.slowdown(rank)), training


def _modelled_s(job: Job, programs: Strategy, rank: int) -> Callable[[Compute], float]:
    """Give the modelled seconds of a computation; a plan that computes nothing needs no costs."""
    if not any(isinstance(effect, Compute) for effect in first_steps(programs.outline.program(rank))):
        return lambda effect: 0.0
    costs = device_costs(job.spec(rank), job.profile, busy_cores=1)
    return lambda effect: compute_s(effect, costs)


def _origin_ns(job: Job) -> int:
    """Give the time that counts as zero: one for all on one machine, each rank's own release across machines."""
    origin = torch.tensor([now_ns()])
    if job.one_machine:
        if torch.distributed.get_backend() == "nccl":
            origin = origin.cuda()
        dist.all_reduce(origin, dist.ReduceOp.MIN)
    return int(origin.item())


def _to_span(rank: int, origin_ns: int, record: Record, name_of: Callable[[str, int], str]) -> Span:
    step, lane, operation, phase, start_ns, end_ns, size_bytes, group = record
    times = ((start_ns - origin_ns) * 1e-9, (end_ns - origin_ns) * 1e-9)
    return Span(rank, step, lane, operation, phase, *times, size_bytes, name_of(group, rank) if group else "")


def _global_losses(training: Training | None) -> tuple[float, ...]:
    if training is None:
        return ()
    losses = training.losses()
    dist.all_reduce(losses)
    return tuple(losses.tolist())


def _collect(
    rank: int, store: dist.Store, seat: Seat, records: _Records, losses: tuple[float, ...], training: Training | None
) -> Result | None:
    """Send records to rank 0 through the store, which every kind of run has."""
    if rank != 0:
        store.set(f"records/{rank}", json.dumps(records))
        return None
    spans, observations = records
    for other in range(1, dist.get_world_size()):
        seat.note(spans[-1].step, f"collecting results of rank {other}", blocked=False)
        others_spans, others_observations = json.loads(store.get(f"records/{other}"))
        spans += [Span(*fields) for fields in others_spans]
        observations += [Observation(*fields) for fields in others_observations]
    spans.sort(key=lambda span: (span.rank, span.start_s, span.lane, span.operation))
    observations.sort(key=lambda each: (each.time_s, each.rank))
    return Result(tuple(spans), tuple(observations), losses, training.parameters() if training else {})


def write_result(result: Result, folder: Path) -> None:
    """Write what rank 0 collected for the process that asked for the run."""
    torch.save(dict(result.parameters), folder / "parameters.pt")
    found = {"spans": result.spans, "observations": result.observations, "losses": result.losses}
    (folder / "result.json").write_text(json.dumps(found))
