"""Native: which plans torch's own wrappers can run, and which of them are not run yet."""

from __future__ import annotations

from collections.abc import Iterator

from twinstep.partition import Partition
from twinstep.run import Run
from twinstep.synchronisation import Sync
from twinstep.torch_pipelines import limit_of_torch
from twinstep.workloads import CollectiveBench, Gpt, Mlp, Training

REBUILDING = 2
"""Steps until DistributedDataParallel has put its buckets in order."""


def native_misfits(workload: Training | CollectiveBench, sync: Sync, run: Run) -> Iterator[str]:
    """Say what `run.engine: native` cannot do, with the remedy; nothing where it can do all."""
    engine = "run.engine native"
    if not isinstance(workload, Gpt | Mlp):
        yield f"{engine} needs workload.kind gpt or mlp, not {workload.kind}: set run.engine to program"
    if run.compute != "real":
        yield f"{engine} computes really: set run.compute to real, or run.engine to program"
    if sync.method != "all_reduce":
        yield f"{engine} needs sync.method all_reduce, not {sync.method}: set run.engine to program"
    if sync.compression.kind != "none":
        yield f"{engine} sends gradients as they are: set sync.compression.kind to none, or run.engine to program"
    if not sync.overlap:
        yield f"{engine} needs sync.overlap true: torch sends a bucket as soon as it is complete"
    if run.stragglers:
        yield f"{engine} takes ranks as they are: leave run.stragglers out, or set run.engine to program"
    if run.warmup < REBUILDING:
        yield (
            f"{engine} needs run.warmup of {REBUILDING} or more, not {run.warmup}, as torch makes its buckets anew in "
            f"the second step: set it to {REBUILDING}"
        )


def unshared_by_torch(partition: Partition) -> str:
    """Say which part of a partition the native engine does not run; empty where it runs all."""
    if partition.recompute == "selective":
        return "run.engine native recomputes whole blocks or nothing: set partition.recompute to full or none"
    if partition.sharding == "optimizer" and partition.tensor > 1:
        return (
            "ZeroRedundancyOptimizer takes no parameters that tensor-parallel ranks share: set partition.sharding to "
            "gradients or parameters"
        )
    if partition.sharding == "optimizer" and partition.sharding_copies > 1:
        return (
            "ZeroRedundancyOptimizer keeps one copy of its state among all replicas: set partition.sharding to "
            "gradients or parameters, or partition.sharding_copies to 1"
        )
    order = partition.order
    if partition.sharding_copies > 1 and partition.context > 1 and order.index("data") < order.index("context"):
        return (
            "torch takes the dimensions of copies and shards in the order of its mesh alone: name context before data "
            "in partition.order, or set partition.sharding_copies to 1"
        )
    return limit_of_torch(partition)
