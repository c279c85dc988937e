"""Simulate flows over given links with SimGrid, a peer of our own fluid network model.

Reads one JSON object from standard input,

    {"links": [{"name": str, "bandwidth_bytes_per_s": float, "latency_s": float}],
     "flows": [{"route": [names of links], "size_bytes": whole number, "start_s": float}]}

and prints one, end_s in the order of the flows, user_cpu_s that of the simulation without building its platform:

    {"version": "3.32", "end_s": [float], "user_cpu_s": float}

SimGrid 3.32 comes with Debian 12 (`apt-get install python3-simgrid`) for the system's Python, not a virtual
environment's: `/usr/bin/python3 bench/peers/simgrid_flows.py < flows.json`.

What SimGrid computes, with CONFIGURATION and SOLVE_ALL below. A flow f starts at start_s, takes no bandwidth during its
latency L_f, the sum of its links' latencies, then sends its size at a rate r_f that is solved anew whenever a flow
begins or ends to send. The rates are max-min fair *in the products p_f r_f*, not in the rates: all products rise
together from zero; when the flows of a link fill it, sum r_f = bandwidth, theirs stay and the others rise further. The
penalty of a flow is

    p_f = L_f in seconds, or 1 where L_f = 0,

so that flows that share a bottleneck get parts in inverse ratio to their latencies: with 1 ms and 2 ms, 2/3 and 1/3.
Flows of equal latency share equally. Beware of latency zero: its penalty is that of a latency of one whole second, and
beside a flow of 1 ms it gets 1/1001. To compare with an unweighted model give every route the same latency.
(SimGrid 3.32: src/surf/network_cm02.cpp, communicate and comm_action_set_variable; src/kernel/lmm/maxmin.cpp.)

SOLVE_ALL keeps SimGrid from its default, to solve anew only for the links that a change can reach. In 3.32 that forgets
links: where two flows with one link in common begin to send in the same instant, the second one's other links may be
left out (src/kernel/lmm/System.cpp, update_modified_cnst_set stops at a link that is already in the set), and the flow
is then faster than they are. For example, all links having 1 ms, flow A over 1 GB/s and 57 GB/s, flow B over the same
57 GB/s and 50 GB/s: B gets 56 GB/s.

Limits: Sizes are whole bytes, one or more. Events less than 1e-12 s apart are one, which a double can tell apart up to
about an hour of simulated time. A link of which less than 1e-5 is left counts as full: where penalties differ by some
1e5 or more (1e-6 s beside latency zero), SimGrid may abort with an assertion or a segmentation fault.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

CONFIGURATION = (
    "network/model:CM02",  # the default, LV08, has latencies of 13 times, bandwidths of 0.97 times what is given
    "network/latency-factor:1",  # CM02's own default, like the next two: stated to be sure
    "network/bandwidth-factor:1",
    "network/weight-S:0",  # no term S / bandwidth in the penalty
    "network/TCP-gamma:0",  # no bound gamma / (2 latency) on a rate; the default is a window of 4194304 bytes
    "network/crosstraffic:0",  # no 5 % of a flow's rate on the way back; on by default
    "surf/precision:1e-12",  # seconds; the default of 1e-9 merges events that are a nanosecond apart
)
SOLVE_ALL = "network/optim:Full"  # the default is Lazy, see above


@dataclass(frozen=True, slots=True)
class Link:
    """A one-directional link that its flows share."""

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Flow:
    """So many bytes over the links of a route, in order."""

    route: list[str]
    size_bytes: float
    start_s: float


def options(*more: str) -> list[str]:
    """Give the command line options of a SimGrid program: the configuration and more items of it; warnings only."""
    return ["--log=root.thresh:warning", *(f"--cfg={item}" for item in (*CONFIGURATION, *more))]


def check(links: list[Link], flows: list[Flow]) -> None:
    """Exit with a message where SimGrid would crash, or would quietly simulate something else."""
    names = {link.name for link in links}
    for number, flow in enumerate(flows):
        if not flow.route or not names.issuperset(flow.route) or len({*flow.route}) < len(flow.route):
            sys.exit(f"flow {number}: its route {flow.route} must name one or more links of {sorted(names)}, each once")
        if flow.size_bytes < 1 or not float(flow.size_bytes).is_integer():
            sys.exit(f"flow {number}: its size_bytes {flow.size_bytes} must be a whole number, 1 or more, for SimGrid")
        if flow.start_s < 0:
            sys.exit(f"flow {number}: its start_s {flow.start_s} must not be negative: SimGrid's clock begins at 0")


def build_platform(simgrid: ModuleType, links: list[Link], flows: list[Flow]) -> list[tuple[Any, Any]]:
    """Make the links, and for each flow two hosts of its own, joined by its route only; give these pairs of hosts."""
    zone = simgrid.NetZone.create_full_zone("flows")
    made = {
        link.name: zone.create_link(link.name, link.bandwidth_bytes_per_s).set_latency(link.latency_s).seal()
        for link in links
    }
    pairs = []
    for number, flow in enumerate(flows):
        source, target = (zone.create_host(f"{end}-{number}", 1.0) for end in ("source", "target"))
        route = [simgrid.LinkInRoute(made[name]) for name in flow.route]
        zone.add_route(source.netpoint, target.netpoint, None, None, route, False)
        pairs.append((source, target))
    zone.seal()
    return pairs


def simulate(simgrid: ModuleType, links: list[Link], flows: list[Flow]) -> tuple[list[float], float]:
    """Give the end of each flow in seconds of simulated time, and the user CPU seconds of the simulation."""
    engine = simgrid.Engine(["simgrid_flows", *options(SOLVE_ALL)])
    pairs = build_platform(simgrid, links, flows)
    sent: dict[int, Any] = {}

    def start_all() -> None:
        for number in sorted(range(len(flows)), key=lambda number: flows[number].start_s):
            simgrid.this_actor.sleep_until(flows[number].start_s)
            sent[number] = simgrid.Comm.sendto_async(*pairs[number], int(flows[number].size_bytes))
        simgrid.Comm.wait_all(list(sent.values()))

    if not flows:
        return [], 0.0
    simgrid.Actor.create("starter", pairs[0][0], start_all)
    begin_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    engine.run()
    user_cpu_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begin_s
    return [sent[number].finish_time for number in range(len(flows))], user_cpu_s


def load_simgrid() -> ModuleType:
    """Import SimGrid's Python binding, or exit 2."""
    try:
        return importlib.import_module("simgrid")
    except ImportError:
        print(f"No SimGrid in {sys.executable}: apt-get install python3-simgrid, use /usr/bin/python3", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Read flows from standard input and print when they end."""
    summary, _, details = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=summary, epilog=details, formatter_class=form).parse_args()
    simgrid = load_simgrid()
    given = json.load(sys.stdin)
    links, flows = [Link(**link) for link in given["links"]], [Flow(**flow) for flow in given["flows"]]
    check(links, flows)
    end_s, user_cpu_s = simulate(simgrid, links, flows)
    version = simgrid.simgrid_version.removesuffix(".0")
    print(json.dumps({"version": version, "end_s": end_s, "user_cpu_s": user_cpu_s}))


if __name__ == "__main__":
    main()
