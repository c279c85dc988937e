"""What tests of the command line share: a good scenario to spoil, how a command ended, what a refusal looks like."""

from __future__ import annotations

from typing import NamedTuple

GOOD = """\
question: Is it fast?
workload:
  kind: mlp
  hidden: [16, 8]
  batch: 12
partition:
  data: 2
sync:
  bucket: 1 MiB
topology:
  builder: one_host
  devices: 3
  device: {peak: 1 GFLOP/s, memory_bandwidth: 1 GB/s}
  link: {bandwidth: 1 Gb/s, latency: 1 us}
run:
  steps: 3
  timeout: 5 s
  compute: emulated
"""


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def assert_refused(ended: Ended, place: str, *words: str) -> None:
    """Check that bad input ended a command with one message that begins with the place and has a remedy."""
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"error: {place}")
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) >= 2, "there is no remedy"
    assert len(ended.err) < 3000
    for word in words:
        assert word in ended.err
