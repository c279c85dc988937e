"""Native plans: torch's own wrappers with real compute on two cores of this machine, each kind of parallelism alone."""

from __future__ import annotations

from collections.abc import Iterator

_PARTITIONS = (
    "data: 2",
    "data: 2, sharding: gradients",
    "data: 2, sharding: parameters",
    "tensor: 2",
    "tensor: 2, sequence_parallel: true",
    "pipeline: 2, microbatches: 4",
    "pipeline: 2, microbatches: 4, schedule: zero_bubble",
    "context: 2",
)
_MODELS = (
    "layers: 4, heads: 4, width: 256, context: 128, batch: 16",
    "layers: 6, heads: 8, width: 192, context: 64, batch: 32",
    "layers: 3, heads: 4, width: 384, context: 96, batch: 16",
)
_TEXT = """\
workload: {{kind: gpt, {model}}}
partition: {{{partition}}}
topology: {{file: one-host-2}}
run: {{steps: 10, warmup: 3, engine: native}}
"""


def native_plans() -> Iterator[tuple[str, str]]:
    """Give names and scenario files."""
    for model in _MODELS:
        for partition in _PARTITIONS:
            yield f"{partition} ({model})", _TEXT.format(model=model, partition=partition)
