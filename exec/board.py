"""The board: a small memory-mapped file in which each rank notes what it does, for the supervisor to watch.

A rank that dies, hangs or is stopped leaves its last note behind. One seat a rank:

    offset  0   8 bytes   step
            8   8 bytes   time of the note, ns of the monotonic clock
           16   1 byte    1 while the rank waits for others
           17   2 bytes   length of the operation's name
           19  77 bytes   the operation's name
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import NamedTuple

_SEAT_BYTES = 96
_NOTE = struct.Struct("<qqBH77s")


class Note(NamedTuple):
    """What a rank did last."""

    step: int
    time_ns: int
    blocked: bool
    """Whether the rank waits for other ranks."""
    operation: str


class Seat:
    """A rank's place on the board, for writing."""

    def __init__(self, board: mmap.mmap, rank: int) -> None:
        self._board = board
        self._offset = rank * _SEAT_BYTES

    def note(self, step: int, operation: str, *, blocked: bool) -> None:
        """Note what the rank does now."""
        name = operation.encode()[:77]
        _NOTE.pack_into(self._board, self._offset, step, time.perf_counter_ns(), blocked, len(name), name)


class Board:
    """All seats, for reading, and for handing out."""

    def __init__(self, path: Path, ranks: int) -> None:
        size = ranks * _SEAT_BYTES
        with path.open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self.ranks = ranks
        for rank in range(ranks):
            self.seat(rank).note(-1, "start", blocked=True)

    def seat(self, rank: int) -> Seat:
        """Give a rank its seat."""
        return Seat(self._memory, rank)

    def read(self, rank: int) -> Note:
        """Read a rank's last note."""
        step, time_ns, blocked, length, name = _NOTE.unpack_from(self._memory, rank * _SEAT_BYTES)
        return Note(step, time_ns, bool(blocked), name[:length].decode(errors="replace"))
