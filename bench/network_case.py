"""One case of the network benchmark in a process of its own, so that its CPU time and memory can be told.

`python bench/network_case.py ring 1024 star` prints JSON: user CPU seconds of the simulation and of the whole process,
peak memory in bytes, and what was simulated. `network.py` runs the cases.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from twinstep.plan import Plan
from twinstep.programs import lower
from twinstep.sim import simulate
from twinstep.sim.fluid import Fluid, Load
from twinstep.topologies import Topology, load

RATES = {"peak": "312 TFLOP/s", "memory_bandwidth": "2 TB/s", "overhead": "5 us"}
FREE = {"bandwidth": "1000000 GB/s", "latency": "0.001 ns"}


def user_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def built(data: dict[str, Any], steps: int = 1) -> tuple[Plan, Topology]:
    plan = Plan.model_validate(data | {"run": {"compute": "emulated", "steps": steps, "warmup": 0}})
    return plan, load(plan.topology, folder=None)  # type: ignore[arg-type]


def ring(ranks: str, builder: str) -> dict[str, Any]:
    """A ring all-reduce of 64 MiB in four chunks over 50 GiB/s and 500 ns, as the peers were given it."""
    link = {"bandwidth": "50 GiB/s", "latency": "500 ns"}
    return simulated(
        {
            "workload": {"kind": "collective", "collective": "all_reduce", "size": "16 MiB", "times": 4},
            "partition": {"data": int(ranks)},
            "communication": {"library": "ideal", "algorithm": "ring"},
            "topology": {"builder": builder, "hosts": int(ranks), "device": RATES, "link": link, "internal_link": FREE},
        }
    )


def gpt3(data: str) -> dict[str, Any]:
    """A step of GPT-3 175B: 8 tensor-parallel ranks on a host, 8 stages, 8 microbatches, rings, a flat switch."""
    degree = int(data)
    return simulated(
        {
            "workload": {
                **{"kind": "gpt", "layers": 96, "heads": 96, "width": 12288, "context": 2048, "vocabulary": 51200},
                "batch": 8 * degree,
            },
            "partition": {"data": degree, "tensor": 8, "pipeline": 8, "microbatches": 8},
            "communication": {"library": "ideal", "algorithm": "ring"},
            "topology": {
                **{"builder": "star", "hosts": 8 * degree, "devices_per_host": 8, "device": RATES},
                "link": {"bandwidth": "200 GB/s", "latency": "2 us"},
                "internal_link": {"bandwidth": "300 GB/s", "latency": "1 us"},
            },
        }
    )


def servers(workers: str, steps: str) -> dict[str, Any]:
    """A linear regression by asynchronous workers with one parameter server, around a switch."""
    return simulated(_servers(int(workers)), int(steps))


def command(workers: str, steps: str) -> dict[str, Any]:
    """Predict the same by the command, which also writes every operation of every rank, a trace and a summary."""
    run = {"compute": "emulated", "steps": int(steps), "warmup": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = {"question": "What does the whole command take?", **_servers(int(workers)), "run": run}
        (folder / "servers.yaml").write_text(json.dumps(plan))
        arguments = ["predict", str(folder / "servers.yaml"), "--out", str(folder)]
        subprocess.run([sys.executable, "-m", "twinstep", *arguments], check=True, capture_output=True, timeout=600)
        predicted = json.loads((folder / "summary.json").read_text())["predicted"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "simulation_user_s": predicted["simulation_wall_s"],
        "process_user_s": used.ru_utime,
        "peak_bytes": used.ru_maxrss * 1024,
        "step_s": predicted["step_time_s"],
    }


def _servers(workers: int) -> dict[str, Any]:
    return {
        "workload": {"kind": "linear_regression", "polynomial_degree": 2, "optimizer": {"kind": "sgd"}},
        "partition": {"data": workers},
        "sync": {"method": "parameter_server", "mode": "asynchronous"},
        "communication": {"library": "ideal"},
        "topology": {
            **{"builder": "star", "hosts": workers + 1, "device": RATES, "internal_link": FREE},
            "link": {"bandwidth": "10 Gb/s", "latency": "5 us"},
        },
    }


def simulated(data: dict[str, Any], steps: int = 1) -> dict[str, Any]:
    plan, topology = built(data, steps)
    before_s = user_s()
    simulation = simulate(plan, lower(plan), topology, None)
    return {
        "simulation_user_s": user_s() - before_s,
        "ranks": plan.ranks,
        "step_s": simulation.timeline.step_time_s(),
        "simulated_ranks": len(simulation.timeline.twins),
    }


def flows(count: str, ends: str) -> dict[str, Any]:
    """Keep `count` random flows under way on a fat tree of 256 hosts, by ECMP, until `ends` of them have ended."""
    link = {"bandwidth": "100 Gb/s", "latency": "1 us"}
    _, topology = built(
        {
            "workload": {"kind": "collective", "collective": "barrier", "size": "1 B"},
            "topology": {"builder": "fat_tree", "ports": 12, "hosts": 256, "device": RATES, "link": link},
        }
    )
    hosts = np.array([topology.node_ids[host] for host in topology.hosts])
    routes = topology.routes("ecmp")
    generator = random.Random(1)
    pairs = np.array([generator.sample(range(256), 2) for _ in range(int(count) + int(ends))])
    paths = routes.paths(hosts[pairs[:, 0]], hosts[pairs[:, 1]])
    loads: list[list[Load]] = [[] for _ in pairs]
    for pair, index in zip(paths.pair.tolist(), paths.link.tolist(), strict=True):
        loads[pair].append(Load(index, 1.0, 1.0))
    turnover = _Turnover([link.bandwidth_bytes_per_s for link in topology.links], loads, generator)
    before_s, began_s = user_s(), time.perf_counter()
    turnover.run(int(count), int(ends))
    wall_s = time.perf_counter() - began_s
    return {
        "simulation_user_s": user_s() - before_s,
        "rate_changes_per_s": turnover.fluid.rate_changes / wall_s,
        "flows_ended_per_s": int(ends) / wall_s,
    }


class _Turnover:
    """Flows of which each that ends is followed by another."""

    def __init__(self, capacities: list[float], loads: list[list[Load]], generator: random.Random) -> None:
        self._env = simpy.Environment()
        self.fluid = Fluid(self._env, capacities)
        self._waiting = iter(loads)
        self._generator = generator
        self._done = self._env.event()
        self._left = 0

    def run(self, count: int, ends: int) -> None:
        """Keep `count` flows under way until `ends` of them have ended."""
        self._left = ends
        for _ in range(count):
            self._begin()
        self._env.run(until=self._done)

    def _begin(self) -> None:
        self.fluid.start(self._generator.uniform(1e6, 1e8), next(self._waiting), self._end)

    def _end(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.succeed()
        elif self._left > 0:
            self._begin()


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "ring": ring,
    "gpt3": gpt3,
    "servers": servers,
    "command": command,
    "flows": flows,
}


def main() -> None:
    name, *arguments = sys.argv[1:]
    found = CASES[name](*arguments)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"process_user_s": user_s(), "peak_bytes": peak_bytes} | found))


if __name__ == "__main__":
    main()
