"""Mesh: which rank is where in a product of parallelisms, and which groups communicate.

Ranks are numbered along the dimensions in `partition.order`, the first fastest. Of tensor 2, data 2, pipeline 2:

    stage 0   [0 1] [2 3]      tensor groups in brackets
    stage 1   [4 5] [6 7]      data groups {0 2} {1 3} {4 6} {5 7}, pipelines {0 4} {1 5} {2 6} {3 7}

| kind | ranks that |
|---|---|
| tensor, context, pipeline | differ along this dimension alone |
| data | hold the same parameters: they differ along data and context |
| sharding, copies | of a data group: share one copy of what is sharded; have the same shard of several copies |
| expert, expert_data | of a data group: share the experts of a mixture; hold the same experts |
| embedding | first and last of a pipeline, where they hold the tied embedding |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from twinstep.partition import Dimension, Partition
from twinstep.programs.groups import Groups, Ranks

DATA: Final = "data"
TENSOR: Final = "tensor"
CONTEXT: Final = "context"
PIPELINE: Final = "pipeline"
EMBEDDING: Final = "embedding"
HOST: Final = "host"
"""Each rank by itself, with the host that it copies from and to."""
SHARDING, COPIES, EXPERT, EXPERT_DATA = "sharding", "copies", "expert", "expert_data"


def mesh_of(partition: Partition) -> Ranks:
    """Give the ranks as an array with the axes pipeline, data, context, tensor.

    >>> mesh_of(Partition(tensor=2, pipeline=2, order=("pipeline", "tensor", "context", "data"))).tolist()
    [[[[0, 2]]], [[[1, 3]]]]
    """
    slowest_first: list[Dimension] = [*reversed(partition.order)]
    mesh = np.arange(np.prod([_degree(partition, name) for name in slowest_first]))
    mesh = mesh.reshape([_degree(partition, name) for name in slowest_first])
    return mesh.transpose([slowest_first.index(name) for name in (PIPELINE, DATA, CONTEXT, TENSOR)])


def coordinates(partition: Partition) -> Mapping[int, Mapping[Dimension, int]]:
    """Give each rank's position along each dimension."""
    axes: tuple[Dimension, ...] = (PIPELINE, DATA, CONTEXT, TENSOR)
    return {
        int(rank): dict(zip(axes, map(int, where), strict=True)) for where, rank in np.ndenumerate(mesh_of(partition))
    }


def mesh_groups(partition: Partition, *, ties_ends: bool) -> Mapping[str, Groups]:
    """Give the groups of more than one rank; `ties_ends` where first and last rank of a pipeline share a parameter."""
    found = dict(_rows(partition))
    if ties_ends:
        found[EMBEDDING] = found[PIPELINE][:, [0, -1]]
    return {kind: Groups(kind, ranks) for kind, ranks in found.items() if ranks.shape[1] > 1}


def _rows(partition: Partition) -> Iterator[tuple[str, Ranks]]:
    """Give each kind's groups as rows."""
    mesh = mesh_of(partition)
    yield TENSOR, mesh.reshape(-1, partition.tensor)
    replicas = mesh.transpose(0, 3, 1, 2).reshape(-1, partition.data * partition.context)
    yield DATA, replicas
    yield PIPELINE, mesh.transpose(1, 2, 3, 0).reshape(-1, partition.pipeline)
    yield CONTEXT, mesh.transpose(0, 1, 3, 2).reshape(-1, partition.context)
    if partition.sharding_copies > 1:
        by_copy = replicas.reshape(len(replicas), partition.sharding_copies, -1)
        yield SHARDING, by_copy.reshape(-1, by_copy.shape[2])
        yield COPIES, by_copy.transpose(0, 2, 1).reshape(-1, partition.sharding_copies)
    if partition.expert > 1:
        by_expert = replicas.reshape(len(replicas), -1, partition.expert, partition.context)
        yield EXPERT, by_expert.transpose(0, 1, 3, 2).reshape(-1, partition.expert)
        same = by_expert.transpose(0, 2, 1, 3)
        yield EXPERT_DATA, same.reshape(len(replicas) * partition.expert, -1)


def _degree(partition: Partition, name: Dimension) -> int:
    return int(getattr(partition, name))
