"""Places: on which rank of a pipeline a stage lies, and as which of its chunks.

Of three ranks with two chunks each, by stage:

    loop   rank 0   0  3        V   rank 0   0  5
           rank 1   1  4            rank 1   1  4
           rank 2   2  5            rank 2   2  3
"""

from __future__ import annotations

from typing import NamedTuple

from twinstep.degrees import V_SHAPED
from twinstep.partition import Partition


class Place(NamedTuple):
    """Where a stage is."""

    rank: int
    """The position in the pipeline."""
    chunk: int
    """Which of the rank's chunks, in the order of the model."""


def stage_of(partition: Partition, rank: int, chunk: int) -> int:
    """Give the stage that is a rank's chunk.

    >>> from twinstep.partition import Partition
    >>> stage_of(Partition(pipeline=3, chunks=2, schedule="zero_bubble_v"), rank=1, chunk=1)
    4
    """
    place = partition.pipeline - 1 - rank if _runs_back(partition, chunk) else rank
    return chunk * partition.pipeline + place


def place_of(partition: Partition, stage: int) -> Place:
    """Give the rank that has a stage, and which of its chunks it is.

    >>> from twinstep.partition import Partition
    >>> place_of(Partition(pipeline=3, chunks=2, schedule="zero_bubble_v"), stage=5)
    Place(rank=0, chunk=1)
    """
    chunk, place = divmod(stage, partition.pipeline)
    return Place(partition.pipeline - 1 - place if _runs_back(partition, chunk) else place, chunk)


def _runs_back(partition: Partition, chunk: int) -> bool:
    return partition.schedule in V_SHAPED and chunk == 1
