"""Counters: what really crossed each link, as the kernel counts it.

A token bucket counts every frame with its headers; `tc` reads it at the end. The interface's own counter is quick to
read, but counts the headers of pieces rather than of frames; it serves for the course over time, and is scaled to what
the token bucket has counted. How long the machine's cores have been busy is read beside it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from twinstep.exec.emulated.builder import Cluster
from twinstep.exec.load import busy_s

_SENT_COLUMN = 8
"""Bytes sent, among the numbers of an interface in /proc/net/dev."""
_MOST_SAMPLES = 400


class Counters:
    """The counters of all links of a cluster, read now and then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ports = {(end.node, end.port): index for index, end in cluster.blueprint.ports.items()}
        self._times_s: list[float] = []
        self._busy_s: list[float] = []
        self._samples: list[dict[int, int]] = []
        self._skip = 0
        self._period = 1

    def sample(self) -> None:
        """Note what has been sent so far; where there are many samples, every other one goes."""
        self._skip += 1
        if self._skip % self._period:
            return
        self._read()
        if len(self._samples) > _MOST_SAMPLES:
            self._times_s, self._busy_s, self._samples = self._times_s[::2], self._busy_s[::2], self._samples[::2]
            self._period *= 2

    def _read(self) -> None:
        self._times_s.append(time.perf_counter())
        self._busy_s.append(busy_s())
        self._samples.append(self._sent())

    def report(self) -> dict[str, object]:
        """Give when the counters were read, and what cores and each link, by its index, had done until then."""
        self._read()
        crossed = self._crossed()
        last = self._samples[-1]
        scale = {index: crossed[index] / last[index] if last.get(index) else 0.0 for index in crossed}
        return {
            "times_s": self._times_s,
            "busy_s": self._busy_s,
            "cores": len(os.sched_getaffinity(0)),
            "course": {
                index: [round(sample.get(index, 0) * scale[index]) for sample in self._samples] for index in crossed
            },
        }

    def _sent(self) -> dict[int, int]:
        found = {}
        for node, namespace in self._cluster.namespaces.items():
            for line in namespace.look(lambda: Path("/proc/net/dev").read_text(encoding="ascii")).splitlines()[2:]:
                port, _, numbers = line.partition(":")
                if (node, port.strip()) in self._ports:
                    found[self._ports[node, port.strip()]] = int(numbers.split()[_SENT_COLUMN])
        return found

    def _crossed(self) -> dict[int, int]:
        found = {}
        for node, namespace in self._cluster.namespaces.items():
            for queue in json.loads(namespace.run("tc", ["qdisc show"], "-s", "-j") or "[]"):
                if queue["kind"] == "htb" and (node, queue["dev"]) in self._ports:
                    found[self._ports[node, queue["dev"]]] = int(queue["bytes"])
        return found
