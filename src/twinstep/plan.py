"""Plan: what a scenario file holds, validated and frozen.

Each class is one section of the file; its docstrings become the descriptions in the JSON Schema, so what an editor
shows while typing is what stands here. Checks that need several sections at once are in `Plan` itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twinstep.topologies import TopologySpec
from twinstep.units import DurationS, Fraction, SizeBytes
from twinstep.workloads import LinearRegression, WorkloadSpec

MAX_RANKS = 4096


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class Partition(_Section):
    """How the work is split over ranks."""

    data: Annotated[int, Field(ge=1, le=MAX_RANKS)] = 1
    """Data-parallel degree: how many ranks share each global batch. 1 is the sequential baseline."""
    placement: Literal["range"] = "range"
    """Which samples of a batch go to which rank: consecutive ranges whose sizes differ by one at most."""


class Sync(_Section):
    """How ranks agree on the parameters."""

    method: Literal["all_reduce"] = "all_reduce"
    """Gradients are summed over all ranks."""
    mode: Literal["bulk_synchronous"] = "bulk_synchronous"
    """Every rank takes every step with the same parameters."""
    bucket: SizeBytes = 25 * 2**20
    """A bucket of gradients is communicated when it has grown to this size, and at the end."""
    overlap: bool = True
    """Whether a bucket travels while earlier layers are still in their backward pass."""


class Straggler(_Section):
    """A rank whose device is slower than the others."""

    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    """Which rank."""
    slowdown: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False, strict=False)]
    """How many times as long each of its computations takes."""


class Run(_Section):
    """What is run, and how closely the prediction must meet it."""

    steps: Annotated[int, Field(ge=1, le=100_000)] = 30
    """Steps that are measured."""
    warmup: Annotated[int, Field(ge=0, le=10_000)] = 5
    """Steps before them that no statistic counts."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial parameters and of the order of samples."""
    tolerance: Fraction = 0.1
    """Largest |predicted - measured| / measured of the step time that counts as within."""
    timeout: DurationS = 60.0
    """How long one operation may take before the run is given up."""
    engine: Literal["program"] = "program"
    """`program` runs the rank programs effect by effect."""
    compute: Literal["real", "emulated"] = "real"
    """`real` computes; `emulated` lets each rank's device idle for the modelled time, communication stays real."""
    stragglers: Annotated[tuple[Straggler, ...], Field(max_length=MAX_RANKS, strict=False)] = ()
    """Slow ranks."""


class Plan(_Section):
    """A distributed training plan: one question, predicted and measured."""

    question: Annotated[str, Field(max_length=500)] = ""
    """What a user wants to know from this scenario; the report's subtitle."""
    workload: WorkloadSpec
    """What is trained, on which data, in which batches."""
    partition: Partition = Partition()
    """How it is split over ranks."""
    sync: Sync = Sync()
    """How ranks agree."""
    topology: TopologySpec
    """Hosts, devices and links: a builder, an explicit graph, or a file."""
    run: Run = Run()
    """Steps, seed, tolerance, kind of compute."""

    @property
    def ranks(self) -> int:
        """Number of ranks that the partition asks for."""
        return self.partition.data

    def slowdown(self, rank: int) -> float:
        """Give how many times as long a rank's computations take."""
        return next((s.slowdown for s in self.run.stragglers if s.rank == rank), 1.0)

    @model_validator(mode="after")
    def _batch_divides(self) -> Plan:
        degree = self.partition.data
        if isinstance(self.workload, LinearRegression):
            if degree > self.workload.samples:
                raise ValueError(f"partition.data ({degree}) is more than the {self.workload.samples} samples")
        elif self.workload.batch % degree:
            raise ValueError(f"partition.data ({degree}) must divide workload.batch ({self.workload.batch})")
        return self

    @model_validator(mode="after")
    def _stragglers_exist(self) -> Plan:
        ranks = [straggler.rank for straggler in self.run.stragglers]
        if len(ranks) != len(set(ranks)):
            raise ValueError("run.stragglers names a rank twice: give each rank one slowdown")
        beyond = [rank for rank in ranks if rank >= self.ranks]
        if beyond:
            raise ValueError(f"run.stragglers names rank {beyond[0]}, but ranks go from 0 to {self.ranks - 1}")
        return self
