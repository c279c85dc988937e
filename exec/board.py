"""The board: a small memory-mapped file in which each rank notes what it does, for the supervisor to watch.

A rank that dies, hangs or is stopped leaves its last note behind. A note is written while somebody may read it: each
number is stored at once, and a name that is read half-written harms nobody. One seat a rank, in bytes:

    0   step
    8   time of the note, ns of the monotonic clock
    16  1 while the rank waits for others, else 0
    24  name of the operation, padded with zeros, to the end of the seat at 96
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SEAT_BYTES = 96
_NAME_AT = 24
_NAME_BYTES = _SEAT_BYTES - _NAME_AT


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
        self._seats = [Seat(memory, rank) for rank in range(len(self.names))]
        for seat in self._seats:
            seat.note(-1, "start", blocked=True)

    def seat(self, rank: int) -> Seat:
        """Give a rank its seat."""
        return self._seats[rank]

    def read(self, rank: int) -> Note:
        """Read a rank's last note."""
        return self._seats[rank].read()
