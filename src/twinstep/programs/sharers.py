"""Sharers: which ranks would hold the same parameters, and how they share them out."""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.partition import Partition
from twinstep.programs.mesh import DATA, EXPERT_DATA, SHARDING
from twinstep.workloads import Parameter, is_expert


@dataclass(frozen=True, slots=True)
class Sharers:
    """The ranks that would hold the same parameters, and those of them that share one copy."""

    group: str
    ranks: int
    shard_group: str
    shard_ranks: int
    """1 where nothing is sharded."""

    @property
    def copies(self) -> int:
        """Count the copies of what is sharded."""
        return self.ranks // self.shard_ranks


def sharers(partition: Partition, *, experts: bool = False) -> Sharers:
    """Give those who share the experts of a mixture, or everything else.

    >>> sharers(Partition(data=8, sharding="parameters", sharding_copies=2)).shard_ranks
    4
    """
    group, ranks = DATA, partition.data * partition.context
    if experts:
        group, ranks = EXPERT_DATA, ranks // partition.expert
    if partition.sharding == "none":
        return Sharers(group, ranks, group, 1)
    copies = partition.sharding_copies
    return Sharers(group, ranks, SHARDING if copies > 1 else group, ranks // copies)


def sharers_of(parameter: Parameter, partition: Partition) -> Sharers:
    """Give those who share a parameter."""
    return sharers(partition, experts=partition.expert > 1 and is_expert(parameter))


def padded_bytes(parameter: Parameter, ranks: int) -> int:
    """Give the bytes of a parameter whose rows are padded to a multiple of the ranks.

    >>> padded_bytes(Parameter("weight", (3, 10)), 2)
    160
    """
    rows = parameter.shape[0]
    return parameter.size_bytes // rows * (-(-rows // ranks) * ranks)


def shard_bytes(parameter: Parameter, ranks: int) -> int:
    """Give the bytes of one rank's rows."""
    return padded_bytes(parameter, ranks) // ranks
