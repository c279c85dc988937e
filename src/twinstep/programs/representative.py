"""Representative: the one pipeline of a plan that stands for all of them, and how much of a step it must idle."""

from __future__ import annotations

import statistics

from twinstep.bubbles import Bubbles, Pipeline, bubble_shares, mean_pass_s, rank_steps
from twinstep.plan import Plan
from twinstep.programs.mesh import PIPELINE, mesh_of
from twinstep.programs.schedules import PassTimes, bubble_share, stage_of
from twinstep.programs.stage import first_layer
from twinstep.timeline import Timeline, kind_of_group


def representative_pipeline(plan: Plan) -> Pipeline | None:
    """Give the pipeline of the first tensor-, context- and data-parallel ranks; None where nothing is pipelined."""
    partition = plan.partition
    if partition.pipeline == 1:
        return None
    ranks = mesh_of(partition)[:, 0, 0, 0]
    return Pipeline(
        ranks=tuple(map(int, ranks)),
        first_layers=tuple(
            tuple(first_layer(plan, stage_of(partition, position, chunk)) for chunk in range(partition.chunks))
            for position in range(partition.pipeline)
        ),
    )


def bubbles(plan: Plan, timeline: Timeline) -> Bubbles | None:
    """Sum up the bubbles of the representative pipeline, beside the closed form for passes as long as its own.

    None where nothing is pipelined, or the timeline has no messages of pipelines.
    """
    pipeline = representative_pipeline(plan)
    if pipeline is None or not _has_messages(timeline):
        return None
    shares = bubble_shares(timeline, pipeline)
    if not shares:
        return None
    step = timeline.representative_step()
    times = mean_pass_s((lived for lived in rank_steps(timeline, pipeline) if lived.step == step), pipeline)
    return Bubbles(
        by_rank={rank: statistics.median(by_step) for rank, by_step in shares.items()},
        closed_form=bubble_share(
            plan.partition, PassTimes(times["forward"], times["backward"], times["weight_gradients"])
        ),
    )


def _has_messages(timeline: Timeline) -> bool:
    return any(kind_of_group(kind.group) == PIPELINE for kind in timeline.table.kinds)
