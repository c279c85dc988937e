"""Validate predictions on emulated clusters: scenarios, random and hybrid plans, modes, collectives: `make validate`.

Torch's own wrappers are measured on this machine's cores, with real compute, in rounds that each begin with a
calibration (`native.py`).

Every case is predicted once and executed; its error is that of the median execution. A case outside its bound is
executed until it has three, as other work on the machine lengthens some. The suite fails above its bounds. Constants
come from the machine's profile alone, which knows none of these graphs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from modes import show_modes
from native import show_native
from random_plans import random_plan
from scipy.stats import spearmanr

from hybrid_plans import hybrid_plans
from twinstep import workflow
from twinstep.profile import Profile, this_machine
from twinstep.report.contents import Prediction
from twinstep.report.words import FULL_SHARE, error_words
from twinstep.scenario import Scenario, load_scenario
from twinstep.timeline import Timeline
from twinstep.units import format_duration, format_size

SCENARIOS = (
    "star-8",
    "ring-order-matters",
    "ring-order-restored",
    "oversubscribed-two-rack",
    "fat-tree-16",
    "incast",
    "two-jobs-share-a-link",
    "slow-link",
    "heterogeneous-hosts",
    "torus-2x4",
    "pipeline-p2p",
)
LEAST_RUNS = 3
"""How often a case outside its bound is executed at the least, before its median is believed."""
COLLECTIVES = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "gather", "scatter", "send")
"""All but all_to_all, which is faster where two ranks call at the same moment, as after a barrier they may."""
LONG = (
    ("256 KiB", "20 Mb/s", (2, 3, 4, 8, 16), 4),
    ("4 MiB", "200 Mb/s", (2, 3, 4, 8, 16), 4),
    ("32 MiB", "400 Mb/s", (3, 8), 2),
)
"""Sizes, bandwidths, numbers of hosts and steps: 40 ms and more, beside which the machine's own time is short."""
SHORT = (("64 KiB", "20 Mb/s", (2, 5), 8), ("256 KiB", "200 Mb/s", (2, 3, 4, 8, 16), 8))
"""5 to 30 ms for most, of which threads that wait for a core take some."""
BENCH = """\
workload: {{kind: collective, collective: {kind}, size: {size}, barrier: {barrier}}}
partition: {{data: {hosts}}}
topology:
  builder: star
  hosts: {hosts}
  device: {{peak: 1 TFLOP/s, memory_bandwidth: 1 TB/s}}
  link: {{bandwidth: {bandwidth}, latency: 1 us}}
run: {{steps: {steps}, warmup: 1, compute: emulated, backend: emulated}}
"""


class Result(NamedTuple):
    """One case: what was predicted, and the median of what was measured in each run."""

    name: str
    predicted_s: float
    measured_s: tuple[float, ...]
    links: float
    """The largest |error| of a link's bytes that carried a tenth of the busiest's at the least, as a fraction."""
    busy_shares: tuple[float, ...]
    """How busy the machine's cores were while links carried something, in each run, as fractions; 0 without links."""

    @property
    def busy_share(self) -> float:
        """That of the median run."""
        return statistics.median(self.busy_shares)

    @property
    def error(self) -> float:
        """Signed fraction (predicted - measured) / measured, of the median run."""
        median_s = statistics.median(self.measured_s)
        return (self.predicted_s - median_s) / median_s


class Case(NamedTuple):
    """One plan, how often it is executed, and which of its times counts."""

    name: str
    scenario: Scenario
    runs: int
    time_of: Callable[[Timeline], float]


class Bound(NamedTuple):
    """What a group of cases must keep, as fractions."""

    mean: float
    largest: float
    links: float
    spearman: float | None = None
    most_full: int = 0
    """How many cases may fill the cores of the machine; no bound but that of links holds for them."""


def run_case(case: Case, profile: Profile, bound: Bound) -> Result:
    """Predict a case once and execute it as often as it asks for, or more often where it misses its bound."""
    prediction = workflow.predict(case.scenario, profile, every_rank=True)
    result = execute(case, prediction, profile, case.runs)
    if abs(result.error) <= bound.largest or case.runs >= LEAST_RUNS:
        return result
    again = execute(case, prediction, profile, LEAST_RUNS - case.runs)
    return Result(
        case.name,
        result.predicted_s,
        result.measured_s + again.measured_s,
        max(result.links, again.links),
        result.busy_shares + again.busy_shares,
    )


def execute(case: Case, prediction: Prediction, profile: Profile, runs: int) -> Result:
    """Execute a case `runs` times."""
    expected = {link[:2]: link.size_bytes for link in prediction.communication.links}
    times_s: list[float] = []
    errors: list[float] = []
    busy_shares: list[float] = []
    for _ in range(runs):
        measurement = workflow.measure(case.scenario, profile, lambda share: None)
        times_s.append(case.time_of(measurement.timeline))
        counted = measurement.counts.links if measurement.counts else ()
        busy_shares.append(measurement.counts.cores_busy_share if measurement.counts else 0.0)
        most = max((link.size_bytes for link in counted), default=0)
        busy = [link for link in counted if link.size_bytes > most / 10]
        errors += [abs(expected.get(link[:2], 0.0) / link.size_bytes - 1) for link in busy]
    return Result(
        case.name, case.time_of(prediction.timeline), tuple(times_s), max(errors, default=0.0), tuple(busy_shares)
    )


def collective_s(timeline: Timeline) -> float:
    """Give the median time of the one collective that is no barrier."""
    return next(
        statistics.median(times)
        for operation, times in timeline.collectives_by_step_s().items()
        if not operation.startswith("barrier")
    )


def collective_cases(
    kinds: Sequence[str], grid: Sequence[tuple[str, str, tuple[int, ...], int]], barrier: str
) -> Iterator[tuple[str, str]]:
    """Name and write down a plan for each collective, size and number of hosts, after a barrier or not."""
    for kind in kinds:
        for size, bandwidth, numbers, steps in grid:
            for hosts in numbers:
                text = BENCH.format(
                    kind=kind, hosts=hosts, size=size, bandwidth=bandwidth, steps=steps, barrier=barrier
                )
                yield f"{kind}, {hosts} hosts, {size}, {bandwidth}", text


def show(title: str, results: Sequence[Result], bound: Bound) -> tuple[str, bool]:
    """Write a table with its summary; tell whether the bound is kept by all that left the machine some time."""
    full = [result for result in results if result.busy_share > FULL_SHARE]
    counted = [result for result in results if result not in full] or results
    errors = [result.error for result in counted]
    mean, largest = statistics.fmean(map(abs, errors)), max(map(abs, errors))
    order = spearmanr([r.predicted_s for r in counted], [statistics.median(r.measured_s) for r in counted]).statistic
    most = max(result.links for result in results)
    kept = len(full) <= bound.most_full and mean <= bound.mean and largest <= bound.largest and most <= bound.links
    kept = kept and (bound.spearman is None or order >= bound.spearman)
    lines = [
        f"## {title}",
        "",
        "| case | predicted | measured, runs | error | bytes of links | cores busy |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        runs = ", ".join(format_duration(time_s) for time_s in result.measured_s)
        predicted, links = format_duration(result.predicted_s), f"{100 * result.links:.1f} %"
        busy = f"{100 * result.busy_share:.0f} %" if result.busy_share else "-"
        lines.append(f"| {result.name} | {predicted} | {runs} | {error_words(result.error)} | {links} | {busy} |")
    beside = f" {len(full)} filled the cores ({bound.most_full} may)." if full else ""
    lines += [
        "",
        f"{len(counted)} cases: mean absolute error {100 * mean:.1f} % (bound {100 * bound.mean:g} %), largest "
        f"{100 * largest:.1f} % (bound {100 * bound.largest:g} %), bias {100 * statistics.fmean(errors):+.1f} %, "
        f"Spearman {order:.3f}; bytes of links within {100 * most:.1f} % (bound {100 * bound.links:g} %). "
        f"{'Kept.' if kept else 'NOT KEPT.'}{beside}",
        "",
    ]
    return "\n".join(lines), kept


def head(profile: Profile, command: str) -> str:
    """Say when, on what and how this was measured."""
    machine = this_machine()
    return (
        f"# Predictions and executions, {date.today().isoformat()}\n\n"
        f"{machine.cpu}, {machine.cores} cores, {format_size(machine.memory_bytes)}, Linux {machine.kernel}, Python "
        f"{platform.python_version()}, torch {version('torch')}, gloo in network namespaces; native plans on loopback."
        f"\nProfile: {profile.title}."
        f"\n\n    {command}\n\nThe error is (predicted - measured) / measured, of the median run; then the "
        "largest difference of bytes on a busy link, and how busy the machine's cores were. Where they were busier "
        f"than {100 * FULL_SHARE:.0f} %, times show the machine's limit, and no bound of times holds. A case "
        f"outside its bound is executed until it has {LEAST_RUNS} runs: it lists several times where others have one. "
        "Native plans have a calibration of their own in each round.\n"
    )


def groups(chosen: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Case], Bound]]:
    """List the parts of the suite, each with its bound."""

    def written(text: str) -> Scenario:
        path = folder / "case.yaml"
        path.write_text(text)
        return load_scenario(str(path))

    scenarios = [Case(name, load_scenario(name), chosen.runs, Timeline.step_time_s) for name in SCENARIOS]
    yield "scenarios", scenarios, Bound(0.03, 0.08, 0.05, 0.98)
    plans = (random_plan(chosen.seed * 1000 + number) for number in range(chosen.random))
    yield (
        "random",
        [Case(name, written(text), 1, Timeline.step_time_s) for name, text in plans],
        Bound(0.03, 0.08, 0.05, 0.98, most_full=1),
    )
    hybrid = [Case(name, written(text), 1, Timeline.step_time_s) for name, text in hybrid_plans()]
    yield "hybrid", hybrid, Bound(0.03, 0.08, 0.05, 0.95)
    for title, kinds, grid, barrier, bound in (
        ("collectives", COLLECTIVES, LONG, "true", Bound(0.02, 0.05, 0.10)),
        ("all-to-all", ("all_to_all",), LONG, "false", Bound(0.08, 0.20, 0.10)),
        ("short collectives", COLLECTIVES, SHORT, "true", Bound(0.10, 0.40, 0.10, most_full=4)),
    ):
        cases = collective_cases(kinds, grid, barrier)
        yield title, [Case(name, written(text), 1, collective_s) for name, text in cases], bound


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the table, too")
    parser.add_argument("--runs", type=int, default=5, help="executions of a scenario")
    parser.add_argument("--random", type=int, default=12, help="how many random plans")
    parser.add_argument("--seed", type=int, default=1, help="of the random plans")
    parser.add_argument(
        "--only",
        choices=["scenarios", "random", "hybrid", "modes", "native", "collectives", "all-to-all", "short collectives"],
        help="one part alone",
    )
    return parser.parse_args()


def main() -> int:
    """Run the suite; give 0 where all bounds are kept."""
    chosen = options()
    profile = workflow.find_profile(load_scenario("star-8"), None, lambda share: None)
    if profile is None or profile.emulation is None:
        print("this machine has no emulated clusters", file=sys.stderr)
        return 3
    parts = [head(profile, " ".join(["python bench/validate.py", *sys.argv[1:]]))]
    all_kept = True
    with tempfile.TemporaryDirectory() as folder:
        for title, cases, bound in groups(chosen, Path(folder)):
            if chosen.only not in (None, title) or not cases:
                continue
            results = []
            for case in cases:
                results.append(run_case(case, profile, bound))
                print(f"{case.name}: {error_words(results[-1].error)}", file=sys.stderr, flush=True)
            text, kept = show(title.capitalize(), results, bound)
            parts.append(text)
            all_kept = all_kept and kept
    beside = {"modes": partial(show_modes, profile), "native": show_native}
    for title, shown in beside.items():
        if chosen.only in (None, title):
            text, kept = shown(LEAST_RUNS)
            parts.append(text)
            all_kept = all_kept and kept
    print("\n".join(parts))
    if chosen.out:
        chosen.out.write_text("\n".join(parts))
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
