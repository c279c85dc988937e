"""A CUDA device: kernels are queued on its stream, NCCL has a stream of its own, CUDA events take the times.

An event is recorded before and after every operation on the stream where it happens, and read when the program has
ended, so that measuring never makes the program wait. The events' axis is tied to the host's clock once, by an event
that is recorded and awaited before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from twinstep.effects import Collective, Compute, Observe, Transfer, Wait
from twinstep.exec.calls import Joined
from twinstep.exec.device import RealCompute, begin_bucket
from twinstep.exec.pending import Observed, Record, now_ns
from twinstep.exec.training import Training
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Phase


@dataclass(slots=True)
class CudaCollective:
    """A collective under way on the communication stream."""

    effect: Collective | Transfer
    end: torch.cuda.Event


@dataclass(slots=True)
class _Pending:
    """A span whose times are still events."""

    step: int
    lane: str
    operation: str
    phase: Phase
    start: torch.cuda.Event
    end: torch.cuda.Event
    size_bytes: int = 0
    group: str = ""


class CudaDevice(RealCompute):
    """A GPU that runs ahead of nothing: the program queues, the device follows."""

    def __init__(self, training: Training, groups: Mapping[str, Joined]) -> None:
        self._training = training
        self._groups = groups
        self._lanes: dict[str, torch.cuda.Stream] = {}
        self._pending: list[_Pending] = []
        self._step = 0
        torch.cuda.synchronize()
        self._origin = _now()
        self._origin.synchronize()
        self._origin_ns = now_ns()
        self._step_begin = self._origin

    def begin_step(self, step: int) -> None:
        """Note the beginning of a step on the stream."""
        self._step, self._step_begin = step, _now()

    def end_step(self) -> None:
        """Note the end of the step on the stream; the program goes on at once."""
        self._pending.append(_Pending(self._step, STEP_LANE, "step", "step", self._step_begin, _now()))

    def compute(self, effect: Compute) -> None:
        """Queue the bound torch functions."""
        start = _now()
        self._training.run(effect, self._step)
        self._pending.append(_Pending(self._step, COMPUTE_LANE, effect.operation, effect.phase, start, _now()))

    def issue(self, effect: Collective | Transfer) -> CudaCollective:
        """Queue the collective on its lane's stream, behind what the compute stream holds now."""
        lane = self._lanes.setdefault(effect.lane, torch.cuda.Stream())  # type: ignore[no-untyped-call]
        issued = _now()
        with torch.cuda.stream(lane):
            lane.wait_event(issued)
            begin_bucket(effect, self._training, self._groups).wait()
            end = _now()
        place = (self._step, effect.lane, effect.operation)
        self._pending.append(_Pending(*place, "communication", issued, end, effect.size_bytes, effect.group))
        return CudaCollective(effect, end)

    def wait(self, effect: Wait) -> None:
        """Queue a wait of the compute stream for the collective."""
        start = _now()
        handle: CudaCollective = effect.handle  # type: ignore[assignment]
        torch.cuda.current_stream().wait_event(handle.end)
        phase: Phase = "exposed_communication"
        self._pending.append(_Pending(self._step, COMPUTE_LANE, effect.operation, phase, start, _now()))

    def synchronize(self) -> None:
        """Block until the stream has done all that is queued."""
        torch.cuda.current_stream().synchronize()

    def observe(self, effect: Observe) -> None:
        """Refuse. Raises TypeError."""
        raise TypeError(f"{effect.name} is observed by programs that have no executor on a GPU")

    def observed(self) -> list[Observed]:
        """List nothing."""
        return []

    def records(self) -> list[Record]:
        """Await the device and read all events."""
        torch.cuda.synchronize()
        return [
            (p.step, p.lane, p.operation, p.phase, self._ns(p.start), self._ns(p.end), p.size_bytes, p.group)
            for p in self._pending
        ]

    def _ns(self, event: torch.cuda.Event) -> int:
        return self._origin_ns + round(float(self._origin.elapsed_time(event)) * 1e6)


def _now() -> torch.cuda.Event:
    """Record an event on the current stream."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
