"""Hybrid plans for emulated clusters: every kind of parallelism alone, and products of them, on 4 to 16 hosts."""

from __future__ import annotations

from collections.abc import Iterator

_TOPOLOGIES = {
    "star of 4": "builder: star, hosts: 4, link: {bandwidth: 80 Mb/s, latency: 1 us}",
    "two racks of 4": (
        "builder: two_tier, racks: 2, hosts_per_rack: 4, link: {bandwidth: 30 Mb/s, latency: 1 us}, "
        "uplink: {bandwidth: 60 Mb/s, latency: 1 us}"
    ),
    "star of 16": "builder: star, hosts: 16, link: {bandwidth: 20 Mb/s, latency: 1 us}",
    "fat tree of 16": "builder: fat_tree, ports: 4, link: {bandwidth: 20 Mb/s, latency: 1 us}",
}
_PLANS = (
    ("star of 4", "data: 4, sharding: optimizer"),
    ("star of 4", "data: 4, sharding: gradients"),
    ("star of 4", "data: 4, sharding: parameters"),
    ("star of 4", "data: 4, sharding: parameters, sharding_copies: 2, microbatches: 2"),
    ("star of 4", "tensor: 4, sequence_parallel: true"),
    ("star of 4", "context: 4"),
    ("star of 4", "pipeline: 4, microbatches: 8, schedule: gpipe"),
    ("star of 4", "pipeline: 4, microbatches: 8, chunks: 2, schedule: interleaved_one_forward_one_backward"),
    ("star of 4", "pipeline: 4, microbatches: 8, schedule: zero_bubble"),
    ("star of 4", "pipeline: 4, microbatches: 8, chunks: 2, schedule: zero_bubble_v"),
    ("star of 4", "pipeline: 4, microbatches: 8, chunks: 2, schedule: dual_pipe_v"),
    ("two racks of 4", "data: 2, tensor: 2, pipeline: 2, microbatches: 4"),
    ("two racks of 4", "data: 4, tensor: 2, sharding: parameters"),
    ("two racks of 4", "data: 4, tensor: 2, sharding: parameters, order: [data, tensor, context, pipeline]"),
    ("two racks of 4", "data: 2, context: 2, tensor: 2, sequence_parallel: true"),
    ("two racks of 4", "data: 4, pipeline: 2, microbatches: 4, sharding: optimizer"),
    ("two racks of 4", "tensor: 2, pipeline: 4, microbatches: 8, chunks: 2, schedule: interleaved_zero_bubble"),
    ("two racks of 4", "data: 8, sharding: parameters, sharding_copies: 2, recompute: full"),
    ("star of 16", "data: 4, tensor: 2, pipeline: 2, microbatches: 4, recompute: selective"),
    ("star of 16", "data: 2, tensor: 2, context: 2, pipeline: 2, microbatches: 4"),
    ("star of 16", "data: 16, sharding: parameters"),
    ("fat tree of 16", "data: 4, pipeline: 4, microbatches: 4, schedule: gpipe, recompute: full"),
    ("fat tree of 16", "data: 4, tensor: 4, sequence_parallel: true, sharding: gradients"),
    ("fat tree of 16", "data: 8, tensor: 2, sharding: parameters, sharding_copies: 4"),
    ("star of 4", "tensor: 4"),
    ("star of 4", "pipeline: 4, microbatches: 8"),
    ("star of 4", "data: 4, expert: 4"),
)
_LAYERS = {"star of 16": 4, "fat tree of 16": 4}
"""Half of the others'. The more hosts, the slower the links: 16 at 40 Mb/s would want more than two cores."""
_TEXT = """\
workload: {{kind: gpt, layers: {layers}, heads: 8, width: 192, context: 64, batch: 32{experts}}}
partition: {{{partition}}}
sync: {{{bucket}}}
topology: {{{topology}, device: {{peak: 100 GFLOP/s, memory_bandwidth: 50 GB/s, overhead: 5 us}}}}
run: {{steps: 2, warmup: 1, compute: emulated, backend: emulated}}
"""


def hybrid_plans() -> Iterator[tuple[str, str]]:
    """Give names and scenario files."""
    for topology, partition in _PLANS:
        sends_units = "sharding: gradients" in partition or "sharding: parameters" in partition
        text = _TEXT.format(
            layers=_LAYERS.get(topology, 8),
            topology=_TOPOLOGIES[topology],
            partition=partition,
            bucket="" if sends_units else "bucket: 1 MiB",
            experts=", experts: 8, experts_per_token: 2" if "expert" in partition else "",
        )
        yield f"{topology}: {partition}", text
