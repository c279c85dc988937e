"""The processes of a real run, as /proc shows them: who they are, whether they are gone, where they listen."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LISTEN = "0A"
"""The state of a socket that listens, in /proc/net/tcp."""


_POLL_S = 0.05
"""How often to look: a look goes through all processes of the machine."""


class Process(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int


def processes() -> Iterator[Process]:
    """Give all processes that have not ended; those that only wait to be reaped have."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if state not in "ZX":
                yield Process(int(path.parent.name), state, int(parent), int(session))


def children(pid: int) -> list[int]:
    """Give the children of a process in the order in which they were started."""
    return sorted(
        (process.pid for process in processes() if process.parent == pid), key=lambda pid: (started(pid), pid)
    )


def command(pid: int) -> str:
    """Give the command line of a process; nothing where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def started(pid: int) -> int:
    """Give the clock tick at which a process was started; 0 where it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def wait_until(find: Callable[[], Any], seconds: float) -> Any:
    """Give the first true answer; the last one where none comes in time."""
    deadline_s = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return found


class Run:
    """`twinstep measure` of a small plan, in processes of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = folder / "out"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._messages = folder / "messages"
        with self._messages.open("wb") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "twinstep", "measure", "quickstart", "--out", str(self.out), *arguments],
                stdout=messages,
                stderr=messages,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary)},
            )
        self.supervisor = 0
        """Its process, which is also the number of its session; 0 as long as it has not been seen."""

    def wait_for_supervisor(self) -> int:
        """Give the supervisor's process, as soon as there is one."""
        assert wait_until(lambda: self.ended() or self._find_supervisor(), 30)
        assert self.supervisor, f"there is no supervisor: {self.messages()}"
        return self.supervisor

    def _find_supervisor(self) -> bool:
        found = [pid for pid in children(self.process.pid) if "twinstep.exec.crew" in command(pid)]
        self.supervisor = found[0] if found else 0
        return bool(found)

    def wait_for_ranks(self, count: int) -> list[int]:
        """Give the processes of the ranks, by rank, as soon as there are so many."""
        self.wait_for_supervisor()
        assert wait_until(lambda: self.ended() or len(self.ranks()) == count, 60)
        assert not self.ended(), self.messages()
        return self.ranks()

    def ranks(self) -> list[int]:
        """Give the processes of the ranks that there are now."""
        return children(self.supervisor) if self.supervisor else []

    def ended(self) -> bool:
        return self.process.poll() is not None

    def messages(self) -> str:
        return self._messages.read_text()

    def of_session(self) -> list[Process]:
        """Give the processes of the supervisor's session, which all ranks belong to."""
        return [process for process in processes() if self.supervisor and process.session == self.supervisor]

    def end(self) -> None:
        """End whatever is left, by process number."""
        for pid in [self.process.pid, *(process.pid for process in self.of_session())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.process.wait(10)


def listening_addresses(pids: list[int]) -> set[str]:
    """Give the addresses, in hexadecimal, on which any of the processes listens."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes |= set(re.findall(r"socket:\[(\d+)\]", str(descriptor.readlink())))
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in inodes:
                addresses.add(fields[1].partition(":")[0])
    return addresses
