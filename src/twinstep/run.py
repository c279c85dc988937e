"""Run: what is run of a plan, and what happens to it meanwhile, as a scenario file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twinstep.disturbances import MAX_RANKS, Background, Death, LinkChange, Straggler
from twinstep.strict_model import StrictModel
from twinstep.units import DurationS, Fraction


class Run(StrictModel):
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
    engine: Literal["program", "native"] = "program"
    """`program` runs the rank programs effect by effect; `native` trains a GPT or a perceptron with torch's own
    wrappers (DistributedDataParallel, fully_shard, tensor parallelism, pipelining) and real compute."""
    compute: Literal["real", "emulated"] = "real"
    """`real` computes; `emulated` lets each rank's device idle for the modelled time, communication stays real."""
    backend: Literal["local", "emulated"] = "local"
    """Where it is executed: `local` is processes of this machine; `emulated` builds the topology of network namespaces
    and shaped links, and needs emulated compute."""
    learning: bool = False
    """Whether emulated compute trains for real beside the modelled time, in the simulator, too: the loss over time is
    predicted and measured. For linear_regression, logistic_regression, sparse_logistic_regression and mlp."""
    jitter: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False, strict=False)] = 0.0
    """How unequal steps are: each rank's computations of a step take longer or shorter by a log-normal factor of mean 1
    whose logarithm has this standard deviation. It is drawn from seed, rank and step; needs emulated compute."""
    stragglers: Annotated[tuple[Straggler, ...], Field(max_length=MAX_RANKS, strict=False)] = ()
    """Slow ranks."""
    deaths: Annotated[tuple[Death, ...], Field(max_length=MAX_RANKS, strict=False)] = ()
    """Ranks that die: workers of parameter servers, or servers that have replicas. Needs emulated compute."""
    link_changes: Annotated[tuple[LinkChange, ...], Field(max_length=1000, strict=False)] = ()
    """Links that change or fail during the run."""
    background: Annotated[tuple[Background, ...], Field(max_length=1000, strict=False)] = ()
    """Traffic of others on the same links. Executed on an emulated cluster alone."""
