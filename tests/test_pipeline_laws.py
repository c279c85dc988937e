"""Simulated pipelines idle as long as their schedules say, whatever the schedule."""

from __future__ import annotations

import pytest
from tests.pipelines import ALL, EVEN, Pipeline, partition
from tests.small_plans import FREE, RATES, make, predict, star

from twinstep.costs import RooflineCosts
from twinstep.kernels import Kernel
from twinstep.plan import Plan
from twinstep.programs.pieces import Piece
from twinstep.programs.schedules import Direction, Slot
from twinstep.programs.stage import stage_parts

COSTS = RooflineCosts(100e9, 50e9, 5e-6)
assert RATES["peak"] == "100 GFLOP/s"


def seconds_of(plan: Plan, stage: int, direction: Direction) -> float:
    """Give what a pass of one microbatch takes on a stage, by the roofline itself; as in torch, stage 0 has no I."""
    kernels: list[Kernel] = []
    for part in stage_parts(plan, stage):
        first: dict[Direction, tuple[Piece, ...]] = {"F": part.forward, "B": part.backward, "I": (), "W": part.backward}
        later = first | {"I": part.inputs_backward, "W": part.weights_backward}
        kernels += [kernel for piece in (later if stage else first)[direction] for kernel in piece.kernels]
    return sum(map(COSTS.kernel_s, kernels))


class Expected(Pipeline):
    """Executes slots with the durations of a plan's stages."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.partition, EVEN, hold_back=True)
        self.plan = plan

    def duration(self, slot: Slot, stage: int) -> float:
        return seconds_of(self.plan, stage, slot.direction)


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize(("pipeline", "microbatches"), [(2, 4), (4, 8)])
def test_a_pipeline_takes_the_time_of_its_slots(schedule: str, pipeline: int, microbatches: int) -> None:
    chunks = 2 if "interleaved" in schedule or schedule.endswith("_v") else 1
    asked = partition(schedule, pipeline, microbatches, chunks)
    plan, topology = make(
        star(pipeline) | {"link": FREE},
        workload={"kind": "gpt", "layers": 8, "heads": 2, "width": 32, "context": 8, "batch": microbatches},
        partition=asked.model_dump(include={"pipeline", "microbatches", "schedule", "chunks"}),
        run={"steps": 1, "warmup": 0, "compute": "emulated"},
    )
    expected = Expected(plan)
    while sum([expected.advance(rank) for rank in range(pipeline)]):
        pass
    spans = predict(plan, topology).timeline.spans
    last_s = max(span.end_s for span in spans if span.phase in ("forward", "backward", "weight_gradients"))
    assert last_s == pytest.approx(max(expected.free), rel=1e-6)
