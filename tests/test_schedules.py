"""Pipeline schedules: closed forms of their bubbles and of what ranks hold, met by executing the slots."""

from __future__ import annotations

import itertools

import pytest
from tests.held_activations import most_held, most_in_flight
from tests.pipelines import ALL, EVEN, PIPELINES, Durations, allowed, execute, partition, refusals

from twinstep.partition import Partition
from twinstep.programs.schedules import (
    Slot,
    gpipe,
    one_forward_one_backward,
    place_of,
    slots,
    stage_of,
    zero_bubble,
)


@pytest.mark.parametrize("schedule", ALL)
def test_every_pass_has_one_slot_and_no_rank_waits_for_ever(schedule: str) -> None:
    for asked in allowed(schedule, (1, 2, 3, 4, 7), range(1, 18)):
        for rank in range(asked.pipeline):
            found = slots(asked, rank)
            pairs = set(itertools.product(range(asked.microbatches), range(asked.chunks)))
            of = {way: [slot[1:3] for slot in found if slot.direction == way] for way in "FBIW"}
            assert sorted(of["F"]) == sorted(of["B"] + of["I"]) == sorted(pairs)
            assert sorted(of["I"]) == sorted(of["W"])
        assert execute(asked).work == 3 * asked.microbatches * asked.chunks


@pytest.mark.parametrize("schedule", ALL)
def test_every_stage_has_its_place(schedule: str) -> None:
    for asked in allowed(schedule, (1, 2, 5), (10,)):
        places = [place_of(asked, stage) for stage in range(asked.pipeline * asked.chunks)]
        assert sorted(places) == sorted(itertools.product(range(asked.pipeline), range(asked.chunks)))
        assert [stage_of(asked, place.rank, place.chunk) for place in places] == list(range(len(places)))


def test_stages_lie_in_loops_or_in_a_v() -> None:
    loops, to_and_fro = partition("interleaved_zero_bubble", 3, 6, 2), partition("zero_bubble_v", 3, 6, 2)
    assert [place_of(loops, stage).rank for stage in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [place_of(to_and_fro, stage).rank for stage in range(6)] == [0, 1, 2, 2, 1, 0]


UNEVEN = [EVEN, Durations(10, 10, 7), Durations(10, 13, 8), Durations(8, 4, 4), Durations(3, 5, 4)]
# Gradients of inputs take no longer than a forward pass, those of weights no longer than either.
FALLING = [EVEN, Durations(10, 10, 7), Durations(10, 8, 6), Durations(8, 4, 4)]
SIZES = [1, 3, 4, 8, 10, 16, 24]


@pytest.mark.parametrize("durations", UNEVEN)
@pytest.mark.parametrize("schedule", ["gpipe", "one_forward_one_backward"])
def test_gpipe_and_1f1b_wait_for_p_minus_1_passes(schedule: str, durations: Durations) -> None:
    for asked in allowed(schedule, PIPELINES, SIZES):
        ran = execute(asked, durations)
        assert ran.bubble == (asked.pipeline - 1) * sum(durations)
        ranks, microbatches = asked.pipeline, asked.microbatches
        assert ran.bubble * (microbatches + ranks - 1) == max(ran.ends) * (ranks - 1)


@pytest.mark.parametrize("durations", UNEVEN)
def test_chunks_shorten_the_bubble(durations: Durations) -> None:
    for asked in allowed("interleaved_one_forward_one_backward", PIPELINES, SIZES):
        ranks, microbatches, chunks = asked.pipeline, asked.microbatches, asked.chunks
        missing = max(0, ranks - microbatches)
        ran = execute(asked, durations)
        assert ran.bubble == (ranks - 1 + (chunks - 1) * missing) * sum(durations)
        if not missing:
            assert ran.bubble * (chunks * microbatches + ranks - 1) == max(ran.ends) * (ranks - 1)


@pytest.mark.parametrize("durations", UNEVEN)
@pytest.mark.parametrize("schedule", ["zero_bubble", "interleaved_zero_bubble"])
def test_gradients_of_weights_fill_the_bubble(schedule: str, durations: Durations) -> None:
    forward, inputs, weights = durations
    for asked in allowed(schedule, PIPELINES, SIZES):
        if asked.microbatches >= asked.pipeline:
            ran = execute(asked, durations)
            assert ran.idle == (asked.pipeline - 1) * (inputs + max(0, forward - weights))
            assert ran.bubble == (asked.pipeline - 1) * max(forward, inputs, forward + inputs - weights)


def test_a_v_of_even_passes_idles_before_and_after_alone() -> None:
    for asked in allowed("zero_bubble_v", PIPELINES, SIZES):
        if asked.microbatches >= 2 * asked.pipeline - 1:
            ran = execute(asked)
            assert (ran.idle, ran.bubble) == (0, asked.pipeline - 1)


@pytest.mark.parametrize("durations", FALLING)
def test_a_halved_dual_pipe_idles_for_the_formula(durations: Durations) -> None:
    forward, inputs, weights = durations
    for asked in allowed("dual_pipe_v", PIPELINES, SIZES):
        ranks = asked.pipeline
        assert execute(asked, durations).bubble == (ranks - 1) * (forward + inputs - weights)
        together = execute(asked, durations, hold_back=True).bubble
        assert together == (ranks - 1) * (2 * forward + inputs - weights)
        if forward == inputs:
            backward = inputs + weights
            assert together == (ranks - 1) * ((forward + backward) + backward - 3 * weights)


@pytest.mark.parametrize("schedule", ALL)
def test_ranks_hold_as_many_activations_as_the_formula_says(schedule: str) -> None:
    for asked in allowed(schedule, PIPELINES, SIZES):
        ranks, microbatches, chunks = asked.pipeline, asked.microbatches, asked.chunks
        per_round = microbatches // max(1, microbatches // ranks)
        if microbatches < 2 * ranks:
            continue
        for rank in range(ranks):
            most = {
                "gpipe": microbatches,
                "one_forward_one_backward": ranks - rank,
                "zero_bubble": ranks,
                "interleaved_one_forward_one_backward": (chunks - 1) * per_round + 2 * (ranks - 1 - rank) + 1,
                "interleaved_zero_bubble": (chunks - 1) * per_round + ranks,
                "zero_bubble_v": 2 * ranks,
                "dual_pipe_v": 2 * ranks + 1,
            }[schedule]
            assert most_in_flight(slots(asked, rank)) == most


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 1), (4, 2), (8, 8), (3, 20)])
def test_zero_bubble_holds_no_more_than_1f1b(stages: int, microbatches: int) -> None:
    held = [most_in_flight(zero_bubble(stage, stages, microbatches)) for stage in range(stages)]
    assert max(held) == most_in_flight(one_forward_one_backward(0, stages, microbatches)) == min(stages, microbatches)
    for stage in range(stages):
        freed_early = most_held(zero_bubble(stage, stages, microbatches), [1], [0])
        assert freed_early == most_in_flight(one_forward_one_backward(stage, stages, microbatches))


def test_what_is_held_counts_by_chunk_and_by_half() -> None:
    order = [Slot("F", 0), Slot("F", 0, 1), Slot("I", 0, 1), Slot("F", 1), Slot("W", 0, 1), Slot("B", 0), Slot("B", 1)]
    assert most_held(order, [10, 5], [0, 3]) == 10 + 3 + 10
    assert most_held(order, [10, 50], [0, 3]) == 10 + 50
    assert most_held(gpipe(3), [7], [0]) == 21
    halves = [Slot("F", 0), Slot("I", 0), Slot("F", 1), Slot("W", 0), Slot("F", 2)]
    assert most_held(halves, [10], [3]) == 10 + 10
    assert most_held(halves, [4], [6]) == 6 + 4


REFUSED = [
    (partition("interleaved_one_forward_one_backward", 4, 9, 2), "9", "2", "12"),
    (partition("interleaved_zero_bubble", 3, 11, 2), "11", "3", "12"),
    (partition("dual_pipe_v", 3, 5, 2), "5", "6", "6"),
]


@pytest.mark.parametrize(("asked", "found", "needed", "remedy"), REFUSED)
def test_what_a_schedule_cannot_do_is_refused(asked: Partition, found: str, needed: str, remedy: str) -> None:
    (reason,) = refusals(asked)
    assert f"partition.microbatches ({found})" in reason
    assert asked.schedule in reason
    assert needed in reason
    assert reason.endswith(remedy)
    assert not refusals(asked.model_copy(update={"microbatches": int(remedy)}))
