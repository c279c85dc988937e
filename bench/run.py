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
from network import print_costs

from twinstep.programs import lower
from twinstep.scenario import load_scenario
from twinstep.sim import simulate

MANY_EFFECTS = ["run.steps=400", "workload.layers=24", "sync.bucket=1 MiB"]


def effects_per_s(*, fold: bool) -> float:
    """Simulate a plan of eight ranks and many layers; give its effects a second, the median of five runs."""
    scenario = load_scenario("overlap", MANY_EFFECTS)
    programs = lower(scenario.plan)
    rates = []
    for _ in range(5):
        run = simulate(scenario.plan, programs, scenario.topology, None, fold=fold)
        rates.append(run.effects * scenario.plan.ranks / len(run.timeline.twins) / run.wall_s)
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
    print(f"effects of all eight ranks a second        {effects_per_s(fold=True):,.0f} (at least 200,000)")
    print(f"the same, every rank simulated             {effects_per_s(fold=False):,.0f}")
    ratios = executor_ratio()
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"executor step / DistributedDataParallel    {middle:.3f} (at most 1.03; quartiles {low:.3f}, {high:.3f})\n")
    print_costs()


if __name__ == "__main__":
    main()
