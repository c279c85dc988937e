"""The board: a small memory-mapped file in which each rank notes what it does, for the supervisor to watch.

A rank that dies, hangs or is stopped leaves its last note behind. A note is written while somebody may read it: each
number is stored at once, and a name that is read half-written harms nobody. One seat a rank, in bytes:

    0   step
    8   time of the note, ns of the monotonic clock
    16  1 while the rank waits for others, else 0
    24  1 once the rank has done all it has to do, else 0
    32  1 once the rank may leave, which the supervisor notes, else 0
    40  name of the operation, padded with zeros, to the end of the seat at 112
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SEAT_BYTES = 112
_NAME_AT = 40
_NAME_BYTES = _SEAT_BYTES - _NAME_AT
_POLL_S = 0.01


class Note(NamedTuple):
    """What a rank did last."""

    step: int
    time_ns: int
    blocked: bool
    """Whether the rank waits for other ranks."""
    operation: str


class Seat:
    """A rank's place on the board."""

    def __init__(self, board: memoryview, rank: int) -> None:
        place = board[rank * _SEAT_BYTES : (rank + 1) * _SEAT_BYTES]
        self._numbers = place.cast("q")
        self._name = place[_NAME_AT:]

    def note(self, step: int, operation: str, *, blocked: bool) -> None:
        """Note what the rank does now."""
        self._name[:] = operation.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
        self._numbers[0] = step
        self._numbers[2] = blocked
        self._numbers[1] = time.perf_counter_ns()

    def wait_to_leave(self) -> None:
        """Note that the rank is done, and block until the supervisor dismisses it: it ends ranks that wait too long."""
        self._numbers[3] = 1
        while not self._numbers[4]:
            time.sleep(_POLL_S)

    @property
    def is_done(self) -> bool:
        """Tell whether the rank has done all it has to do."""
        return bool(self._numbers[3])

    def dismiss(self) -> None:
        """Let the rank leave."""
        self._numbers[4] = 1

    def read(self) -> Note:
        """Read the rank's last note."""
        operation = bytes(self._name).rstrip(b"\0").decode(errors="replace")
        return Note(self._numbers[0], self._numbers[1], bool(self._numbers[2]), operation)


class Board:
    """All seats of a crew: first its ranks, then others, who work until the ranks have ended."""

    def __init__(self, path: Path, ranks: int, others: Sequence[str] = ()) -> None:
        """Make a board for some ranks and for the `others` of these names."""
        self.names = (*(f"rank {rank}" for rank in range(ranks)), *others)
        """What messages call the holder of each seat."""
        size = len(self.names) * _SEAT_BYTES
        with path.open("a+b") as file:
            file.truncate(size)
            memory = memoryview(mmap.mmap(file.fileno(), size))
        self.ranks = ranks
        self.dead: set[int] = set()
        """Ranks that died, and that the others go on without."""
        self._seats = [Seat(memory, rank) for rank in range(len(self.names))]
        for seat in self._seats:
            seat.note(-1, "start", blocked=True)

    def seat(self, rank: int) -> Seat:
        """Give a rank its seat."""
        return self._seats[rank]

    def read(self, rank: int) -> Note:
        """Read a rank's last note."""
        return self._seats[rank].read()

    @property
    def living(self) -> list[int]:
        """List the ranks that have not died."""
        return [rank for rank in range(self.ranks) if rank not in self.dead]

    def dismiss_when_done(self) -> None:
        """Let the ranks leave once all that live are done: one that leaves early looks to others like one that died."""
        seats = [self._seats[rank] for rank in self.living]
        if all(seat.is_done for seat in seats):
            for seat in seats:
                seat.dismiss()
