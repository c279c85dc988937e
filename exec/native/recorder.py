"""The recorder: what torch does in a step, as records of the executor.

A rank computes one thing at a time. A computation begins where the one before it ends; while the rank waits for a
communication it is interrupted, so it may have several records:

    compute   forward 0   wait   forward 0   forward 1 ...
    data            all_gather

After a backward pass torch may wait where nobody sees it: the reducer of DistributedDataParallel does. From the end of
the computation to the end of the last communication that nobody else has waited for, the rank has waited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch.futures import Future

from twinstep.effects import Compute
from twinstep.exec.board import Seat
from twinstep.exec.native.clock import Clock, Moment
from twinstep.exec.pending import Record
from twinstep.timeline import COMPUTE_LANE, STEP_LANE, Phase, kind_of_group


@dataclass(slots=True)
class Communication:
    """An operation of a process group."""

    step: int
    operation: str
    size_bytes: int
    group: str
    start: Moment
    end: Moment | None = None
    """None until it is known."""
    is_waited_for: bool = False
    noting: Future[None] | None = None
    """Done when a thread of the process group has noted the end."""


@dataclass(slots=True)
class _Span:
    """Something on the compute lane, or a step."""

    step: int
    lane: str
    operation: str
    phase: Phase
    start: Moment
    end: Moment


@dataclass(slots=True)
class _Tail:
    """What is left of a backward pass when nothing is left to compute."""

    step: int
    start: Moment
    end: Moment
    pending: Sequence[Communication]


class Recorder:
    """Notes what happens in steps; what happens outside of them, such as setting up, is nobody's."""

    def __init__(self, clock: Clock, seat: Seat) -> None:
        self._clock = clock
        self._seat = seat
        self._step = -1
        self._step_start: Moment = None
        self._computing: tuple[str, Phase] | None = None
        self._since: Moment = None
        self._spans: list[_Span] = []
        self._tails: list[_Tail] = []
        self._communications: list[Communication] = []
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._first_of_step = 0
        self._graph_end: Moment = None

    def begin_step(self, step: int) -> None:
        """Note the beginning of a step."""
        self._step, self._step_start = step, self._clock.now()
        self._numbers.clear()
        self._first_of_step = len(self._communications)

    def end_step(self) -> None:
        """Note the end of the step."""
        self.stop()
        self._note(STEP_LANE, "step", "step", self._step_start)
        self._step = -1

    def start(self, phase: Phase, layer: int | None = None, microbatch: int | None = None) -> None:
        """Note that a computation begins, and that the one before it has ended."""
        self.stop()
        operation = Compute(phase, (), layer, microbatch).operation
        self._computing, self._since = (operation, phase), self._clock.now()
        self._seat.note(self._step, operation, blocked=False)

    def stop(self, phase: Phase | None = None, layer: int | None = None, microbatch: int | None = None) -> None:
        """Note that the computation has ended, if it is the one that is given; whichever it is, if none is."""
        if self._computing is None:
            return
        if phase is not None and self._computing[0] != Compute(phase, (), layer, microbatch).operation:
            return
        self._note(COMPUTE_LANE, *self._computing, self._since)
        self._computing = None

    def begin(self, kind: str, size_bytes: int, group: str, hop: str = "") -> Communication | None:
        """Note that a communication begins; nothing outside of steps. `hop` is where a message goes, e.g. `0>1`.

        Operations of a kind are numbered in their group, where all ranks issue them in the same order.
        """
        if self._step < 0:
            return None
        name = f"{kind}[group={kind_of_group(group)},{f'hop={hop},' if hop else ''}number="
        number = self._numbers[name, group]
        self._numbers[name, group] += 1
        found = Communication(self._step, f"{name}{number}]", size_bytes, group, self._clock.now())
        self._communications.append(found)
        return found

    def complete(self, communication: Communication) -> None:
        """Note that a communication is complete, unless that is known."""
        if communication.end is None:
            communication.end = self._clock.now()

    @contextmanager
    def waiting(self, communication: Communication) -> Iterator[None]:
        """Note that the rank waits for a communication, and goes on with what it computed."""
        interrupted = self._computing
        self.stop()
        start, operation = self._clock.now(), f"wait[{communication.operation}]"
        self._seat.note(self._step, operation, blocked=True)
        yield
        communication.is_waited_for = True
        place = (communication.step, COMPUTE_LANE, operation)
        self._spans.append(_Span(*place, "exposed_communication", start, self._clock.now()))
        if interrupted:
            self._computing, self._since = interrupted, self._clock.now()
            self._seat.note(self._step, interrupted[0], blocked=False)

    def end_of_graph(self) -> None:
        """Note that a backward pass has nothing left to compute."""
        self.stop()
        self._graph_end = self._clock.now()
        self._seat.note(self._step, "end of the backward pass", blocked=True)

    def end_of_backward(self) -> None:
        """Note that a backward pass is over."""
        pending = [each for each in self._communications[self._first_of_step :] if not each.is_waited_for]
        self._tails.append(_Tail(self._step, self._graph_end, self._clock.now(), pending))

    def _note(self, lane: str, operation: str, phase: Phase, start: Moment) -> None:
        self._spans.append(_Span(self._step, lane, operation, phase, start, self._clock.now()))

    def records(self) -> list[Record]:
        """Give all records; what has never been seen to end has taken no time."""
        for each in self._communications:
            if each.noting is not None:
                each.noting.wait()
        ns = self._clock.ns
        found: list[Record] = [
            (span.step, span.lane, span.operation, span.phase, ns(span.start), ns(span.end), 0, "")
            for span in self._spans
        ]
        found += [record for tail in self._tails for record in self._waited(tail)]
        for each in self._communications:
            lane, end = kind_of_group(each.group), each.start if each.end is None else each.end
            span = (ns(each.start), ns(end), each.size_bytes, each.group)
            found.append((each.step, lane, each.operation, "communication", *span))
        return found

    def _waited(self, tail: _Tail) -> Iterator[Record]:
        """Give the wait at the end of a backward pass, where something was still under way."""
        ends = [(self._clock.ns(each.end), each.operation) for each in tail.pending if each.end is not None]
        last_ns, operation = max(ends, default=(0, ""))
        start_ns, end_ns = self._clock.ns(tail.start), min(last_ns, self._clock.ns(tail.end))
        if end_ns > start_ns:
            phase: Phase = "exposed_communication"
            yield (tail.step, COMPUTE_LANE, f"wait[{operation}]", phase, start_ns, end_ns, 0, "")
