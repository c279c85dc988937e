"""One rank of a run, from joining the group to handing in what it measured.

The supervisor forks ranks on one machine; `worker.py` is a rank that torchrun has started. Ranks of one machine share
its monotonic clock. On several machines every rank's times are relative to its own release from a common barrier,
since their clocks do not agree: the error is what the barrier's last message needs to arrive.
"""

from __future__ import annotations

import gc
import json
import signal
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
from twinstep.exec.device import Device, HostDevice
from twinstep.exec.emulated_device import EmulatedDevice
from twinstep.exec.engine import Engine, ProgramEngine
from twinstep.exec.gloo_threads import keep_watchers_from_preempting
from twinstep.exec.lifelines import Lifelines
from twinstep.exec.pending import Record, now_ns
from twinstep.exec.records import Records
from twinstep.exec.training import SharedTraining, Training
from twinstep.plan import Plan
from twinstep.profile import Profile, read_profile
from twinstep.programs import DataParallel, SharedMemory, Strategy, first_steps, lower
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
    supervised: bool
    """Whether somebody watches all ranks, lets the others go on where one dies, and ends them where one hangs."""

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
    return Job(lower(scenario.plan), scenario.topology, known, one_machine=True, supervised=True)


class Result(NamedTuple):
    """What one rank hands in."""

    records: Records
    parameters: Mapping[str, Tensor]
    """Its parameters, or those that all share, after everybody's last step; empty where compute is emulated."""


def run_rank(
    job: Job, rank: int, store: dist.Store, seat: Seat, wait_to_leave: Callable[[], None], local_rank: int
) -> Result:
    """Join the group, run the program, and leave the group with all others."""
    torch.set_num_threads(1)
    plan = job.plan
    gpu = local_rank if job.spec(rank) == "cuda" and plan.run.compute == "real" else None
    timeout = timedelta(seconds=plan.run.timeout + TIMEOUT_MARGIN_S)
    dist.init_process_group(
        "gloo" if gpu is None else "nccl", store=store, rank=rank, world_size=plan.ranks, timeout=timeout
    )
    engine = _make_engine(job, rank, gpu, timeout, seat)
    gc.freeze()  # to visit all of torch's objects in search of cycles would stop the rank for a tenth of a second
    seat.note(-1, "first barrier", blocked=True)
    dist.barrier()
    origin_ns = _origin_ns(job)
    seat.note(0, "first step", blocked=False)
    _die_when_planned(plan, rank, origin_ns)
    engine.run()
    signal.setitimer(signal.ITIMER_REAL, 0)  # who is done cannot die any more
    spans = [_to_span(rank, origin_ns, record) for record in engine.records()]
    observations = [
        Observation(rank, step, (time_ns - origin_ns) * 1e-9, name, value)
        for step, time_ns, name, value in engine.observed()
    ]
    losses = _global_losses(engine.losses())
    records = Records(spans, observations, losses, engine.memory())
    seat.note(plan.total_steps, "waiting to leave", blocked=True)
    wait_to_leave()
    dist.destroy_process_group()
    return Result(records, engine.parameters())


def _die_when_planned(plan: Plan, rank: int, origin_ns: int) -> None:
    """Let the kernel end the process when the plan wants it, whatever it does then."""
    for death in plan.run.deaths:
        if death.rank == rank:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, death.at - (now_ns() - origin_ns) * 1e-9))


def _join_groups(programs: Strategy, rank: int, timeout: timedelta) -> Mapping[str, Joined]:
    """Make all groups, as every rank must, and give those that the rank is in, by kind."""
    joined = {}
    for kind, groups in programs.groups.items():
        for ranks in groups.ranks.tolist():
            group = dist.new_group(ranks, timeout=timeout)
            if rank in ranks:
                joined[kind] = Joined(group, tuple(ranks), ranks.index(rank))
    return joined


def _make_engine(job: Job, rank: int, gpu: int | None, timeout: timedelta, seat: Seat) -> Engine:
    """Make what does the rank's work, on a GPU where its number is given."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    if job.plan.run.engine == "native":
        from twinstep.exec.native.training import NativeTraining

        device = torch.device("cpu") if gpu is None else torch.device("cuda", gpu)
        return NativeTraining(job.programs, rank, device, seat)
    groups = _join_groups(job.programs, rank, timeout)
    if job.plan.is_on_emulated_cluster:
        keep_watchers_from_preempting()
    return ProgramEngine(job.programs, rank, *_make_device(job, job.programs, rank, groups, gpu), seat)


def _make_device(
    job: Job, programs: Strategy, rank: int, groups: Mapping[str, Joined], gpu: int | None
) -> tuple[Device, Training | None]:
    plan = job.plan
    if plan.run.compute == "emulated":
        pace = partial(plan.pace, rank)
        calls, modelled_s = Calls(groups), _modelled_s(job, programs, rank)
        some_can_be_missed = any(not plan.lost_with({other}) for other in (0, plan.workers))
        lifelines = Lifelines(calls.listen) if job.supervised and some_can_be_missed else None
        return EmulatedDevice(calls.begin, modelled_s, pace, lifelines=lifelines), None
    if isinstance(programs, SharedMemory):
        worker = SharedTraining(programs, rank)
        return HostDevice(worker, groups, plan.slowdown(rank)), worker
    if not isinstance(programs, DataParallel):
        raise TypeError("only data parallelism has an executor with real compute")
    if gpu is not None:
        from twinstep.exec.cuda import CudaDevice

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


def _to_span(rank: int, origin_ns: int, record: Record) -> Span:
    step, lane, operation, phase, start_ns, end_ns, size_bytes, group = record
    times = ((start_ns - origin_ns) * 1e-9, (end_ns - origin_ns) * 1e-9)
    return Span(rank, step, lane, operation, phase, *times, size_bytes, group)


def _global_losses(losses: Tensor | None) -> tuple[float, ...]:
    if losses is None:
        return ()
    dist.all_reduce(losses)
    return tuple(losses.tolist())


def write_result(result: Result, folder: Path, rank: int) -> None:
    """Write what a rank hands in for the process that asked for the run."""
    if rank == 0:
        torch.save(dict(result.parameters), folder / "parameters.pt")
    unfinished = folder / f"partial-{rank}.json"
    unfinished.write_text(json.dumps(result.records))
    unfinished.rename(folder / f"records-{rank}.json")
