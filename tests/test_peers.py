"""The network model against other simulators: published figures, and SimGrid where it is installed."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import simpy
from tests.repeated import seeds
from tests.small_plans import alone_s

from twinstep.sim.fluid import Fluid, Load
from twinstep.sim.libraries import Ideal

GIB_S = 2.0**30
SYSTEM_PYTHON = Path("/usr/bin/python3")
FLOWS = Path(__file__).parents[1] / "bench" / "peers" / "simgrid_flows.py"

# Simulated nanoseconds of a ring all-reduce of 64 MiB in 4 chunks over links of 50 GiB/s and 500 ns, by ranks.
SIMGRID_RING = {64: 2_712_937, 256: 3_510_234, 1024: 6_589_559}
SIMGRID_SWITCH = {64: 2_964_937, 256: 4_530_234, 1024: 10_681_559}
ASTRA_SIM_RING = {64: 2_840_836, 256: 3_651_640, 1024: 6_792_760}
ASTRA_SIM = Ideal(step_s=10e-9, reduction_s_per_byte=3 / 1600e9)
"""Its endpoint delay a message, and its memory term: two reads and a write at 1600 GB/s for what is summed."""
CHUNKS = 4


def fabric(builder: str, ranks: int) -> dict[str, Any]:
    link = {"bandwidth": "50 GiB/s", "latency": "500 ns"}
    free = {"bandwidth": "1000000 GB/s", "latency": "0.001 ns"}
    return {"builder": builder, "hosts": ranks, "link": link, "internal_link": free}


def ring_ns(builder: str, ranks: int, library: Ideal) -> float:
    """Give the time of four all-reduces of a quarter each, one after another."""
    chunk = 64 * 2**20 // CHUNKS
    return CHUNKS * 1e9 * alone_s(fabric(builder, ranks), ranks, "all_reduce", chunk, library, algorithm="ring")


@pytest.mark.parametrize("ranks", [64, 256, 1024])
def test_ring_all_reduce_takes_simgrids_time(ranks: int) -> None:
    assert ring_ns("ring", ranks, Ideal()) == pytest.approx(SIMGRID_RING[ranks], rel=0.005)
    assert ring_ns("star", ranks, Ideal()) == pytest.approx(SIMGRID_SWITCH[ranks], rel=0.005)


@pytest.mark.parametrize("ranks", [64, 256, 1024])
def test_ring_all_reduce_takes_astra_sims_time(ranks: int) -> None:
    assert ring_ns("ring", ranks, ASTRA_SIM) == pytest.approx(ASTRA_SIM_RING[ranks], rel=0.005)


def random_case(seed: int) -> dict[str, Any]:
    """Make flows over random links; all routes have one latency, since SimGrid weighs shares by it."""
    generator = random.Random(seed)
    links = [
        {
            "name": f"l{i}",
            "bandwidth_bytes_per_s": generator.choice([1e6, 2e6, generator.uniform(5e5, 5e6)]),
            "latency_s": 0,
        }
        for i in range(generator.randint(2, 12))
    ]
    flows = []
    for _ in range(generator.randint(2, 60)):
        route = generator.sample([link["name"] for link in links], generator.randint(1, min(4, len(links))))
        start_s = generator.choice([0.0, generator.uniform(0, 3)])
        flows.append({"route": route, "size_bytes": generator.randint(1000, 5_000_000), "start_s": start_s})
    return {"links": links, "flows": flows}


def own_ends_s(case: dict[str, Any]) -> list[float]:
    env = simpy.Environment()
    number = {link["name"]: index for index, link in enumerate(case["links"])}
    fluid = Fluid(env, [link["bandwidth_bytes_per_s"] for link in case["links"]])
    ends_s = [0.0] * len(case["flows"])

    def send(index: int, flow: dict[str, Any]):  # type: ignore[no-untyped-def]
        yield env.timeout(flow["start_s"])
        loads = [Load(number[name], 1.0, 1.0) for name in flow["route"]]
        fluid.start(flow["size_bytes"], loads, lambda: ends_s.__setitem__(index, env.now))

    for index, flow in enumerate(case["flows"]):
        env.process(send(index, flow))
    env.run()
    return ends_s


def simgrid(case: dict[str, Any]) -> dict[str, Any]:
    """Let SimGrid simulate a case; skip where it is not installed."""
    if not SYSTEM_PYTHON.is_file():
        pytest.skip(f"{SYSTEM_PYTHON} is missing, which Debian's python3-simgrid is for")
    found = subprocess.run(
        [SYSTEM_PYTHON, FLOWS], input=json.dumps(case), capture_output=True, text=True, timeout=60, check=False
    )
    if found.returncode == 2:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


@pytest.mark.simgrid
@pytest.mark.parametrize("seed", seeds(40, quick=3))
def test_contending_flows_end_when_simgrids_do(seed: int) -> None:
    case = random_case(seed)
    assert own_ends_s(case) == pytest.approx(simgrid(case)["end_s"], rel=0.01)
