"""Bubbles and waits by kind of group: numbers that can be checked by hand, and the closed forms of the schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.pipelined import GROUPS, PIPELINE, two_stages
from tests.pipelines import ALL, partition
from tests.small_plans import FREE, make, predict, star

from twinstep.bubbles import Pass, Pipeline, RankStep, bubble_shares, gaps_by_step, mean_pass_s, passes, rank_steps
from twinstep.communication import communication
from twinstep.degrees import V_SHAPED
from twinstep.partition import Partition
from twinstep.programs import bubbles, representative_pipeline
from twinstep.programs.schedules import PassTimes, bubble_share
from twinstep.timeline import Span, Timeline, Twins


def passes_of(pipeline: Pipeline) -> list[Pass]:
    lived = rank_steps(two_stages(steps=1), pipeline)
    return [each for rank_step in lived for each in passes(rank_step, pipeline)]


def test_a_rank_is_in_a_bubble_while_it_waits_for_another_stage() -> None:
    # rank 0: 3 s and 1 s for gradients; rank 1: 1.5 s for activations, and 2.5 s until rank 0 joins the embedding's
    # sum, whose own second is no bubble
    shares = bubble_shares(two_stages(), PIPELINE)
    assert shares == {0: pytest.approx([4 / 12] * 2), 1: pytest.approx([4 / 12] * 2)}


def test_gaps_say_what_is_waited_for() -> None:
    assert gaps_by_step(two_stages(), PIPELINE)[0] == [
        (0, 2.0, 5.0, "recv gradients[hop=1>0,microbatch=0]"),
        (0, 7.0, 8.0, "recv gradients[hop=1>0,microbatch=1]"),
        (1, 0.0, 1.5, "recv activations[hop=0>1,microbatch=0]"),
        (1, 7.5, 10.0, "all_reduce"),
    ]


def test_steps_of_the_warm_up_are_left_out() -> None:
    warm = replace(two_stages(steps=3), warmup_steps=2)
    assert [len(by_step) for by_step in bubble_shares(warm, PIPELINE).values()] == [1, 1]
    assert list(gaps_by_step(warm, PIPELINE)) == [2]
    assert [each.step for each in rank_steps(warm, PIPELINE)] == [2, 2]


def test_a_representative_stands_for_the_pipelines_own_rank() -> None:
    lived = two_stages()
    folds = (Twins(0, (0, 2)), Twins(1, (1, 3)))
    folded = Timeline(lived.spans, ranks=4, warmup_steps=0, folds=folds)
    shares = bubble_shares(folded, Pipeline((2, 3), PIPELINE.first_layers))
    assert shares == {2: pytest.approx([4 / 12] * 2), 3: pytest.approx([4 / 12] * 2)}


def test_a_rank_that_died_has_no_bubbles() -> None:
    lived = two_stages()
    left = tuple(span for span in lived.spans if span.rank == 0)
    assert list(bubble_shares(replace(lived, spans=left, lost=(1,)), PIPELINE)) == [0]


def test_passes_hold_what_is_computed_of_a_microbatch_and_the_waits_in_between() -> None:
    found = passes_of(PIPELINE)
    assert [each[:6] for each in found if each.rank == 1] == [
        (1, "forward", 0, 0, 1.5, 2.5),
        (1, "backward", 0, 0, 2.5, 4.5),
        (1, "forward", 1, 0, 4.5, 5.5),
        (1, "backward", 1, 0, 5.5, 7.5),
    ]
    assert [each.computed_s for each in found if each.rank == 1] == [1.0, 2.0, 1.0, 1.5]
    assert [each[1:6] for each in found if each.rank == 0][:2] == [("forward", 0, 0, 0, 1.0), ("forward", 1, 0, 1, 2)]


def test_layers_tell_chunks_apart() -> None:
    chunked = Pipeline(PIPELINE.ranks, ((0, 1), (2, 3)))
    found = passes_of(chunked)
    assert [(each.phase, each.microbatch, each.chunk) for each in found if each.rank == 1] == [
        *[("forward", 0, 0), ("backward", 0, 0), ("forward", 1, 0)],
        *[("backward", 1, 1), ("backward", 1, 0)],
    ]


def test_a_pass_begins_with_waits_for_parameters_and_ends_with_sums() -> None:
    def lasting(operation: str, start_s: float, end_s: float) -> Span:
        phase = "exposed_communication" if operation.startswith("wait") else operation.partition("[")[0]
        return Span(0, 0, "compute", operation, phase, start_s, end_s)  # type: ignore[arg-type]

    spans = [
        lasting("wait[all_gather[bucket=0,microbatch=0,pass=forward]]", 0, 1),
        lasting("wait[all_gather[bucket=1,microbatch=0,pass=forward]]", 1, 2),
        lasting("forward[layer=0,microbatch=0]", 2, 4),
        lasting("wait[all_gather[bucket=2,microbatch=0,pass=forward]]", 4, 5),
        lasting("forward[layer=0,microbatch=0]", 5, 6),
        lasting("wait[all_reduce[layer=0,microbatch=0,pass=forward]]", 6, 7),
        lasting("forward[layer=1,microbatch=0]", 7, 8),
        lasting("wait[recv keys[hop=0>1,layer=1,microbatch=0]]", 8, 9),
        lasting("wait[recv gradients[hop=1>0,microbatch=0]]", 9, 10),
        lasting("backward[layer=1,microbatch=0]", 10, 11),
        lasting("wait[reduce_scatter[bucket=0,microbatch=0,pass=backward]]", 11, 12),
        lasting("optimizer", 12, 13),
    ]
    assert passes(RankStep(0, 0, spans), Pipeline((0,), ((0, 1),))) == [
        (0, "forward", 0, 0, 0, 7, 3),
        (0, "forward", 0, 1, 7, 9, 1),
        (0, "backward", 0, 1, 10, 11, 1),
    ]


def test_mean_passes_leave_out_the_first_stage_whose_halves_are_not_apart() -> None:
    means = mean_pass_s(rank_steps(two_stages(), PIPELINE), PIPELINE)
    assert means == {"forward": 1.0, "backward": 2.0, "weight_gradients": 0.0}


def test_waits_belong_to_the_group_of_what_is_waited_for() -> None:
    found = communication(two_stages(), GROUPS)
    assert [(each.group, each.exposed_s, each.hidden_s) for each in found.groups] == [
        ("pipeline", (4.0 + 1.5) / 2, (0.5 + 0.5) / 2),
        ("embedding", (1.0 + 3.5) / 2, 0.0),
        ("tensor", 0.5 / 2, 0.0),
    ]
    assert sum(each.exposed_s for each in found.groups) == pytest.approx(found.exposed_s)


def test_a_wait_for_nothing_known_has_no_group() -> None:
    lived = two_stages()
    silent = tuple(span for span in lived.spans if span.phase != "communication")
    assert communication(replace(lived, spans=silent), GROUPS).groups == (("", pytest.approx(10.5 / 2), 0.0),)


def test_of_two_communications_of_one_name_the_one_counts_that_ends_with_the_wait() -> None:
    lived = two_stages()
    other = next(span for span in lived.spans if span.group == "embedding")
    twice = (*lived.spans, other._replace(group="data", start_s=9.0, end_s=9.5))
    groups = communication(replace(lived, spans=twice), GROUPS | {"data": 2}).groups
    assert {each.group: each.exposed_s for each in groups}["data"] == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Partition(pipeline=4, microbatches=8), 3 / 11),
        (Partition(pipeline=4, microbatches=8, schedule="gpipe"), 3 / 11),
        (Partition(pipeline=4, microbatches=2), 3 / 5),
        (partition("interleaved_one_forward_one_backward", 4, 8, 2), 3 / 19),
        (partition("interleaved_one_forward_one_backward", 4, 3, 2), (3 + 1) / (6 + 4)),
        (partition("zero_bubble", 4, 8), 3 * 1.5 / (3 * 1.5 + 8 * 3.5)),
        (partition("interleaved_zero_bubble", 4, 8, 2), 3 * 1.5 / (3 * 1.5 + 16 * 3.5)),
        (partition("zero_bubble", 4, 3), None),
        (partition("zero_bubble_v", 4, 8, 2), None),
    ],
)
def test_closed_forms(asked: Partition, expected: float | None) -> None:
    assert bubble_share(asked, PassTimes(1.0, 1.5, 1.0)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("tied", [False, True])
def test_simulated_bubbles_are_those_of_the_schedule(schedule: str, tied: bool) -> None:
    """The head makes the last stage a little longer than the others."""
    chunks = 2 if "interleaved" in schedule or schedule in V_SHAPED else 1
    asked = partition(schedule, 4, 8, chunks)
    plan, topology = make(
        star(4) | {"link": FREE, "device": {"peak": "100 GFLOP/s", "memory_bandwidth": "5 TB/s"}},
        workload={
            "kind": "gpt",
            **{"layers": 8, "heads": 2, "width": 768, "context": 64, "vocabulary": 256, "tied": tied, "batch": 8},
        },
        partition=asked.model_dump(include={"pipeline", "microbatches", "schedule", "chunks"}),
        run={"steps": 1, "warmup": 1, "compute": "emulated"},
    )
    found = bubbles(plan, predict(plan, topology).timeline)
    assert found
    assert sorted(found.by_rank) == [0, 1, 2, 3]
    if schedule in V_SHAPED:
        assert found.closed_form is None
    else:
        assert found.closed_form
        assert found.mean == pytest.approx(found.closed_form, abs=0.01)


def test_the_representative_pipeline_is_that_of_the_first_positions() -> None:
    plan, _ = make(
        star(8),
        workload={"kind": "gpt", "layers": 4, "heads": 2, "width": 8, "context": 4, "batch": 8},
        partition={
            **{"tensor": 2, "data": 2, "pipeline": 2, "microbatches": 4},
            **{"schedule": "zero_bubble_v", "chunks": 2},
        },
    )
    assert representative_pipeline(plan) == Pipeline((0, 4), ((0, 7), (3, 5)))


def test_a_timeline_without_messages_of_pipelines_has_no_bubbles() -> None:
    """As one whose waits have other names: no bubble is not a bubble of nothing."""
    plan, _ = make(
        star(2),
        workload={"kind": "gpt", "layers": 4, "heads": 2, "width": 8, "context": 4, "batch": 8},
        partition={"pipeline": 2, "microbatches": 2},
    )
    lived = two_stages()
    assert bubbles(plan, lived)
    silent = [span for span in lived.spans if span.group != "pipeline"]
    assert bubbles(plan, replace(lived, spans=tuple(silent))) is None


def test_without_a_pipeline_there_are_no_bubbles() -> None:
    plan, topology = make(star(2), partition={"data": 2})
    assert representative_pipeline(plan) is None
    assert bubbles(plan, predict(plan, topology).timeline) is None
