"""A crew: forked ranks of this machine, watched together and ended together.

Whichever process dies, the others do not outlive it: ranks die with the process that forked them (PR_SET_PDEATHSIG),
and a rank that fails takes the rest along. The crew's keeper tells the command line how things stand in JSON lines on
its standard output: `{"event": "progress", "step": 3}`, several times a second, and at the end `{"event": "done"}` or
`{"event": "failed", "message": ...}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from twinstep.exec.board import Board

_POLL_S = 0.05
_REPORT_S = 0.1
_GRACE_S = 0.3
"""How long after the first death others are awaited, to tell the cause from its consequences."""
_START_S = 60.0
"""How long a rank may take to import what it needs and to meet the others, however short the timeout."""
_REMOVALS = 3
"""How often a folder is removed, in which a rank may be writing a last file."""
_KILLING = (signal.SIGKILL, signal.SIGTERM, signal.SIGALRM)
"""Signals by which somebody else, or the plan, ends a process."""
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


class _Death(NamedTuple):
    rank: int
    status: int
    """As os.waitpid gives it."""


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, and let sleeps end as exactly as they can.

    Where `parent`, the process that was to be its parent, has ended already, this process ends at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, number)
    libc.prctl(_PR_SET_TIMERSLACK, 1)
    if parent != os.getppid():
        os.kill(os.getpid(), number)


def say(**message: object) -> None:
    """Send a message to the command line; end where it has gone."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        raise SystemExit(3) from None


def run_crew(
    board: Board,
    folder: Path,
    timeout_s: float,
    work: Callable[[int], None],
    on_poll: Callable[[], None],
    lost_with: Callable[[AbstractSet[int]], str] = lambda dead: "every rank is needed",
) -> str | None:
    """Fork a process a seat, each of which does `work(seat)`; give the message of the first failure, or None.

    When all ranks have ended well, the others are ended. A rank that notes nothing on the board for `timeout_s` has
    failed; one that has not begun its first step is given a minute at the least. `on_poll` is called several times a
    second. A rank that is killed fails the crew unless `lost_with`, told of all that were, has no reason why the others
    cannot go on. In a fork `folder` takes the message of a rank that fails.
    """
    alive = {rank: _fork(rank, folder, work) for rank in range(len(board.names))}
    try:
        return _watch(alive, board, folder, timeout_s, on_poll, lost_with)
    finally:
        _end_all(alive)


def _fork(rank: int, folder: Path, work: Callable[[int], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        os.dup2(2, 1)
        work(rank)
        status = 0
    except BaseException as error:  # whatever ends a rank, its keeper reports
        text = f"{type(error).__name__}: {error}"
        (folder / f"error-{rank}").write_text(text + "\n" + traceback.format_exc())
    finally:
        os._exit(status)


def _watch(
    alive: dict[int, int],
    board: Board,
    folder: Path,
    timeout_s: float,
    on_poll: Callable[[], None],
    lost_with: Callable[[AbstractSet[int]], str],
) -> str | None:
    """Wait until all ranks have ended; give the message of the first failure, or None.

    `alive` maps ranks to process ids, and loses those that have ended.
    """
    reported_s = 0.0
    while any(rank < board.ranks for rank in alive):
        deaths = _reap(alive)
        if failed := [death for death in deaths if death.status]:
            killed = {death.rank for death in failed if _can_be_missed(death, board)}
            dead = board.dead | killed
            reason = lost_with(dead) if killed else ""
            if reason or len(killed) < len(failed):
                time.sleep(_GRACE_S)
                return "\n".join(filter(None, [_describe_deaths(failed + _reap(alive), board, folder), reason]))
            board.dead = dead
        board.dismiss_when_done()
        if late := _late_ranks(alive, board, timeout_s):
            return _describe_late(late, alive, board, timeout_s)
        if time.monotonic() - reported_s > _REPORT_S:
            reported_s = time.monotonic()
            on_poll()
        time.sleep(_POLL_S)
    return None


def _can_be_missed(death: _Death, board: Board) -> bool:
    """Tell whether others may go on: a rank that had met them was killed, and did not crash."""
    was_killed = os.WIFSIGNALED(death.status) and os.WTERMSIG(death.status) in _KILLING
    return was_killed and death.rank < board.ranks and board.read(death.rank).step >= 0


def _reap(alive: dict[int, int]) -> list[_Death]:
    deaths = []
    for rank, pid in list(alive.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del alive[rank]
            deaths.append(_Death(rank, status))
    return deaths


def _describe_deaths(deaths: list[_Death], board: Board, folder: Path) -> str:
    """Name the rank that failed first: one that was killed, else the first to raise something of its own."""
    killed = [death for death in deaths if os.WIFSIGNALED(death.status)]
    failed = [death for death in deaths if death.status and death not in killed]
    if killed:
        rank = killed[0].rank
        cause = f"was killed by {signal.Signals(os.WTERMSIG(killed[0].status)).name}"
    else:
        rank = min(failed, key=lambda death: _error_rank(folder, death.rank)).rank
        cause = f"failed: {_error(folder, rank)}"
    return f"{board.names[rank]} {cause}\n{_position(rank, board)}"


def _error(folder: Path, rank: int) -> str:
    """Give the first line that a rank left: its exception; the rest is the traceback."""
    path = folder / f"error-{rank}"
    return path.read_text(errors="replace").partition("\n")[0] if path.is_file() else "it left no message"


def _error_rank(folder: Path, rank: int) -> tuple[bool, float]:
    """Order errors: those that only say that another rank has gone come last, then by time."""
    path = folder / f"error-{rank}"
    is_consequence = any(word in _error(folder, rank) for word in ("onnection", "peer", "imed out"))
    return is_consequence, path.stat().st_mtime if path.is_file() else 0.0


def _position(rank: int, board: Board) -> str:
    note = board.read(rank)
    where = f"in step {note.step}" if note.step >= 0 else "before the first step"
    return f"its last operation, {where}: {note.operation}"


def _late_ranks(alive: dict[int, int], board: Board, timeout_s: float) -> list[int]:
    """Give the ranks that have noted nothing for longer than the timeout, or than a start may take."""
    late = []
    for rank, pid in alive.items():
        if board.seat(rank).is_done:
            continue
        note = board.read(rank)
        has_begun = note.step >= 0 or _is_stopped(pid)
        patience_s = timeout_s if has_begun else max(timeout_s, _START_S)
        if time.perf_counter_ns() - note.time_ns > patience_s * 1e9:
            late.append(rank)
    return late


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _describe_late(late: list[int], alive: dict[int, int], board: Board, timeout_s: float) -> str:
    """Name the rank to blame: one that is stopped, else one that waits for nobody, else the first that is late.

    It need not be late itself: what it noted last may be younger than what the ranks that wait for it noted.
    """
    stopped = [rank for rank, pid in alive.items() if _is_stopped(pid)]
    running = [rank for rank in alive if not board.read(rank).blocked]
    rank = (stopped or [rank for rank in running if rank in late] or running or late)[0]
    if stopped:
        problem = f"is stopped (SIGSTOP): no progress for {timeout_s:g} s"
    elif rank in late:
        problem = f"hangs: no progress for {timeout_s:g} s"
    else:
        problem = f"keeps {board.names[late[0]]} waiting: no progress there for {timeout_s:g} s"
    return f"{board.names[rank]} {problem}\n{_position(rank, board)}"


def _end_all(alive: dict[int, int]) -> None:
    for pid in alive.values():
        os.kill(pid, signal.SIGKILL)
    for pid in alive.values():
        os.waitpid(pid, 0)


def main(module: str, folder: Path, parent: int) -> int:
    """Keep a crew in this process: run the main function of `module`, bound to the command line's life before all else.

    Where the command line is killed, all ends and the run's folder goes, which nobody else would remove.
    """

    def end(number: int = 0, frame: FrameType | None = None) -> None:
        """End at once: an exception could be swallowed by what is being imported. The ranks die with this process."""
        for _ in range(_REMOVALS):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(3)

    signal.signal(signal.SIGTERM, end)
    die_with_parent(parent, signal.SIGTERM)
    try:
        status: int = import_module(module).main(folder)
    except SystemExit:  # of `say`: nobody listens any more
        end()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
