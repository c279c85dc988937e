"""The cost of simulating networks, beside SimGrid's where it is installed. Every case runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIMGRID = [sys.executable, str(HERE / "peers" / "simgrid_ring.py"), "--topology"]


def case(*arguments: str) -> dict[str, Any]:
    """Run a case of network_case.py."""
    command = [sys.executable, str(HERE / "network_case.py"), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def simgrid_ring(ranks: int, topology: str) -> str:
    """Let SimGrid do the same ring; give its user CPU seconds in words."""
    done = subprocess.run(
        [*SIMGRID, topology, "--ranks", str(ranks)], check=False, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        return "not installed"
    found = json.loads(done.stdout)
    return f"{found['user_cpu_s']:.3g} s, {found['simulated_s'] * 1e3:.3f} ms"


def print_costs() -> None:
    """Print a row a case: user CPU of the simulation and of the whole process, memory, what was simulated."""
    print("| case | simulation | limit | whole process | memory | simulated time | SimGrid: CPU, simulated time |")
    print("|---|---|---|---|---|---|---|")
    for ranks, limit_s in ((64, None), (256, None), (1024, 0.05), (4096, None), (16384, 0.2), (65536, None)):
        for builder, peer in (("ring", "ring"), ("star", "switch")):
            if builder == "ring" and ranks > 4096:
                continue
            theirs = simgrid_ring(ranks, peer) if ranks <= 1024 else ""
            _row(f"ring all-reduce, {ranks} ranks, {builder}", case("ring", str(ranks), builder), limit_s, theirs)
    for degree, limit_s in ((1, None), (4, None), (16, 1.0), (128, None), (1563, 5.0)):
        _row(f"GPT-3 175B step, {64 * degree} ranks, flat switch", case("gpt3", str(degree)), limit_s, "")
    for workers, steps, limit_s in ((16, 1600, None), (256, 100, None), (256, 1000, 10.0)):
        found = case("servers", str(workers), str(steps))
        _row(f"{workers} workers, {steps} asynchronous steps, one parameter server", found, limit_s, "")
    _row("the last one by the command, with all that it writes", case("command", "256", "1000"), 10.0, "")
    flows = case("flows", "1000", "1000")
    changes, ends = flows["rate_changes_per_s"], flows["flows_ended_per_s"]
    print(
        f"\n1000 flows on a fat tree of 256 hosts: {changes:,.0f} changes of a flow's rate a second (at least 20,000), "
        f"{ends:,.0f} flows ended and begun a second"
    )


def _row(name: str, found: dict[str, Any], limit_s: float | None, theirs: str) -> None:
    limit = f"{limit_s:g} s" if limit_s else ""
    print(
        f"| {name} | {found['simulation_user_s']:.3f} s | {limit} | {found['process_user_s']:.2f} s "
        f"| {found['peak_bytes'] / 2**20:.0f} MiB | {found['step_s'] * 1e3:.3f} ms | {theirs} |",
        flush=True,
    )


if __name__ == "__main__":
    print_costs()
