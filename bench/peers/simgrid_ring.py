"""Simulate a ring all-reduce message by message with SimGrid, a peer of our own simulator.

The buffer is split into chunks, reduced one after the other. A chunk takes 2(N-1) steps; in each, every one of the N
ranks sends size / (chunks N) bytes to its successor and waits for as many of its predecessor. The ranks are joined by

    ring    a link from each to its successor: a message passes one link
    switch  a link from each to one switch and a link back: a message passes two links

No two messages share a link, so the time is in closed form, hops being 1 or 2:

    chunks 2(N-1) (hops latency + size / (chunks N bandwidth))

Prints one JSON object, user_cpu_s that of the whole SimGrid process without compiling it:

    {"version": "3.32", "simulated_s": float, "user_cpu_s": float}

SimGrid 3.32 comes with Debian 12: `apt-get install libsimgrid-dev g++`. Any Python from 3.11 on runs this. The program
itself is C++ (simgrid_ring.cpp, compiled into a temporary folder at each call), which is SimGrid at its fastest: actors
of its Python binding are threads, and cost about 40 times as much. The configuration is that of simgrid_flows.py, but
solved lazily, as by default: that is faster, and right where no link is shared.

With the defaults SimGrid gives, for 64 / 256 / 1024 ranks, 2,712,937 / 3,510,234 / 6,589,559 ns on the ring and
2,964,937 / 4,530,234 / 10,681,559 ns through the switch; 1024 ranks take some 20 s.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from simgrid_flows import options

SOURCE = Path(__file__).with_suffix(".cpp")
HEADER = "simgrid/s4u.hpp"


def compile_program(folder: Path) -> Path:
    """Compile the C++ program into a folder; exit 2 where SimGrid or the compiler is not installed."""
    program = folder / SOURCE.stem
    command = ["g++", "-std=c++17", "-O2", str(SOURCE), "-o", str(program), "-lsimgrid"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("g++") else None
    if done is None or f"{HEADER}: No such file" in done.stderr:
        print("SimGrid for C++ is not installed: apt-get install libsimgrid-dev g++", file=sys.stderr)
        sys.exit(2)
    if done.returncode:
        sys.exit(f"{SOURCE} does not compile:\n{done.stderr}")
    return program


def simulate(ring: argparse.Namespace) -> str:
    """Compile and run the program; give what it prints."""
    message_bytes, rest = divmod(ring.size_bytes, ring.chunks * ring.ranks)
    if rest:
        sys.exit(f"--size-bytes {ring.size_bytes} must be a multiple of chunks times ranks: SimGrid counts whole bytes")
    steps = ring.chunks * 2 * (ring.ranks - 1)
    numbers = (ring.ranks, message_bytes, steps, ring.bandwidth_bytes_per_s, ring.latency_s)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(compile_program(Path(folder))), *options(), ring.topology, *(str(number) for number in numbers)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def parse() -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=form)
    parser.add_argument("--topology", choices=("ring", "switch"), default="ring", help="default: ring")
    parser.add_argument("--ranks", type=int, default=64, help="2 or more; default: 64")
    parser.add_argument("--size-bytes", type=int, default=64 * 2**20, help="of the whole buffer; default: 64 MiB")
    parser.add_argument("--chunks", type=int, default=4, help="splits of the buffer, one after the other; default: 4")
    parser.add_argument("--bandwidth-bytes-per-s", type=float, default=50 * 2.0**30, help="a link's; default: 50 GiB/s")
    parser.add_argument("--latency-s", type=float, default=500e-9, help="a link's; default: 500 ns")
    ring = parser.parse_args()
    if ring.ranks < 2 or ring.chunks < 1 or ring.size_bytes < 1:
        parser.error("it needs 2 ranks or more, and 1 chunk and 1 byte or more")
    return ring


def main() -> None:
    """Print SimGrid's version, the simulated time and the CPU time that it took."""
    version, simulated_s, user_cpu_s = simulate(parse()).split()
    print(json.dumps({"version": version, "simulated_s": float(simulated_s), "user_cpu_s": float(user_cpu_s)}))


if __name__ == "__main__":
    main()
