"""Contents: everything that the outputs of one command show. All of them draw from it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from twinstep.bubbles import Bubbles, Pipeline
from twinstep.communication import Communication, LinkCounts
from twinstep.compare import Comparison
from twinstep.memory_use import MemoryUse
from twinstep.progress import Progress, Spread, progress
from twinstep.timeline import Timeline

Origin = Literal["measured", "calibrated", "assumed", "data sheet", "plan"]


@dataclass(frozen=True, slots=True)
class Assumption:
    """One number that the prediction rests on, and where it comes from."""

    name: str
    value: str
    """With its unit, for people."""
    origin: Origin
    note: str = ""


@dataclass(frozen=True, slots=True)
class MemoryCourse:
    """What a rank holds over the representative step of a timeline."""

    rank: int
    moments: tuple[tuple[float, Mapping[str, int]], ...]
    """Times in seconds, on the timeline's axis, in order, and the bytes by part, with their `total`, from each on."""
    device_bytes: int | None
    """The memory of the rank's device; None where the plan does not state it."""
    allowance_bytes: int = 0
    """What is allowed for fragmentation beyond the peak."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator says."""

    timeline: Timeline
    """At least one step after the warm-up."""
    peak_memory_bytes: dict[str, int]
    """Bytes on the fullest rank by part: parameters, gradients, optimizer_state, activations, others, and total, with
    the allowance for fragmentation."""
    simulation_wall_s: float
    """Real time that the simulation took, in seconds."""
    events: int
    """Effects that were simulated; fewer than the plan has where ranks were folded, more of an ensemble."""
    communication: Communication
    algorithms: dict[str, str]
    """How each kind of communication goes about it, in words."""
    bubbles: Bubbles | None = None
    """None where nothing is pipelined."""
    memory: MemoryCourse | None = None
    """Of the rank with the highest peak; None where nobody followed it."""
    memory_by_rank: Mapping[int, MemoryUse] = field(default_factory=dict)
    """Of the ranks with spans."""
    spread: Spread | None = None
    """Of the ensemble that the timeline is the median of; None where chance does not count."""

    def progress(self) -> Progress:
        """Read how workers go on."""
        return progress(self.timeline, self.spread)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the real run did."""

    timeline: Timeline
    """At least one step after the warm-up."""
    losses: tuple[float, ...]
    """One a step, warm-up included; empty where the work has no loss."""
    other_load_cores: float | None
    """How many cores others kept busy meanwhile, on average: processes, and other virtual machines on the same cores;
    None where nobody looked."""
    communication: Communication
    counts: LinkCounts | None = None
    """What crossed each link; None where nobody counted."""
    bubbles: Bubbles | None = None
    """None where nothing is pipelined."""
    memory_by_rank: Mapping[int, MemoryUse] = field(default_factory=dict)
    """Of the ranks that measured it."""
    no_memory: str = ""
    """Why none was measured, in words; empty where one was."""

    def progress(self) -> Progress:
        """Read how workers go on."""
        return progress(self.timeline)


@dataclass(frozen=True, slots=True)
class Contents:
    """What there is to show: a prediction, a measurement, or both with their comparison.

    Raises ValueError where there is nothing to show, or a comparison without its two sides.
    """

    scenario: str
    question: str
    """What the user wants to know, in words."""
    ranks: int
    tolerance: float
    """The largest |step time error| that the plan accepts, as a fraction."""
    plan_yaml: str
    """The resolved plan."""
    prediction: Prediction | None
    measurement: Measurement | None
    comparison: Comparison | None
    assumptions: tuple[Assumption, ...]
    topology_figure: Any | None
    """A plotly Figure, as report.topology_view draws it."""
    cautions: tuple[str, ...] = ()
    """What figures leave out, or may show instead, in sentences."""
    by_programs: Measurement | None = None
    """The same plan as the rank programs do it, where the measurement is of torch's own wrappers."""
    pipeline: Pipeline | None = None
    """The one that stands for all; None where nothing is pipelined."""

    def __post_init__(self) -> None:
        if self.prediction is None and self.measurement is None:
            raise ValueError("a report needs a prediction or a measurement")
        both = self.prediction is not None and self.measurement is not None
        if both != (self.comparison is not None):
            raise ValueError("a report has a comparison exactly where it has a prediction and a measurement")
