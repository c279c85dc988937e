"""What tests of emulated clusters share: whether this machine can make them, and what is left of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path

import pytest

_TRY = """
from twinstep.exec.emulated.namespaces import Namespace, become_able
become_able(lambda: None)
print(Namespace().run("tc", ["qdisc add dev lo root htb default 1"]), Namespace().run("ip", ["link set lo up"]))
"""


@cache
def _missing() -> str:
    """Say what keeps this machine from emulating clusters; nothing where it can."""
    done = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def needs_namespaces() -> None:
    """Skip the test, with the reason, where no cluster can be emulated."""
    if reason := _missing():
        pytest.skip(f"no network namespaces with iproute2 here: {reason}")


def namespaces(pids: Iterable[int] | None = None) -> set[str]:
    """Name the network namespaces that any process, or any of some, is in or holds open."""
    processes = ["[0-9]*"] if pids is None else [str(pid) for pid in pids]
    found = set()
    for process, kind in product(processes, ("ns/net", "fd/*")):
        for path in Path("/proc").glob(f"{process}/{kind}"):
            with contextlib.suppress(OSError):
                target = str(path.readlink())
                if target.startswith("net:["):
                    found.add(target)
    return found


def interfaces() -> list[str]:
    """Name the network interfaces of this machine's own namespace."""
    return sorted(path.name for path in Path("/sys/class/net").iterdir())
