"""Benchmarks that print ratios and rates; `make bench` runs them.

They pair what they compare, in turns and in the same processes, and quote medians, since machines drift.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from ddp_by_hand import executor_ratio

from twinstep.programs import DataParallel
from twinstep.scenario import load_scenario
from twinstep.sim import simulate

MANY_EFFECTS = ["run.steps=400", "workload.layers=24", "sync.bucket=1 MiB"]


def effects_per_s() -> float:
    """Simulate a plan of eight ranks and many layers; give the effects a second, the median of five runs."""
    scenario = load_scenario("overlap", MANY_EFFECTS)
    programs = DataParallel(scenario.plan)
    rates = []
    for _ in range(5):
        run = simulate(scenario.plan, programs, scenario.topology, None)
        rates.append(run.effects / run.wall_s)
    return statistics.median(rates)


def predict_seconds() -> list[float]:
    """Time `twinstep predict quickstart --json` as whole processes."""
    times = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            begin_s = time.perf_counter()
            command = [sys.executable, "-m", "twinstep", "predict", "quickstart", "--json", "--out", folder]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            times.append(time.perf_counter() - begin_s)
    return times


def main() -> None:
    """Print every figure beside what it should be."""
    times = predict_seconds()
    print(f"predict quickstart --json, whole process   {statistics.median(times):.2f} s (at most 1)")
    print(f"simulated effects a second                 {effects_per_s():,.0f} (at least 200,000)")
    ratios = executor_ratio()
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"executor step / DistributedDataParallel    {middle:.3f} (at most 1.03; quartiles {low:.3f}, {high:.3f})")


if __name__ == "__main__":
    main()
