"""Local SGD and gossip: closed forms of their time, and laws of their averages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.small_plans import BYTES_PER_S, HOP_S, make, predict, star

from twinstep.learning import Share, local_learner
from twinstep.learning.data import DataSet, diabetes
from twinstep.learning.models import layers_of
from twinstep.learning.optimizers import Updates
from twinstep.plan import Plan
from twinstep.programs import lower, shards
from twinstep.timeline import Timeline

REGRESSION = {
    "kind": "linear_regression",
    "polynomial_degree": 2,
    "optimizer": {"kind": "sgd", "learning_rate": 0.02},
}
WIDE = {"kind": "mlp", "hidden": [512, 512], "batch": 240}
WORKERS = 4
RING = {"library": "ideal", "algorithm": "ring"}


def plan_of(sync: dict[str, Any], steps: int = 12, workers: int = WORKERS, **changes: Any) -> tuple[Plan, Any]:
    run = {"steps": steps, "warmup": 0, "compute": "emulated", "learning": changes.get("workload") is None}
    known: dict[str, Any] = {"workload": REGRESSION, "run": run, "communication": RING} | changes
    return make(star(workers), partition={"data": workers}, sync=sync, **known)


def lived(sync: dict[str, Any], **changes: Any) -> Timeline:
    return predict(*plan_of(sync, **changes)).timeline


def averaging_s(size_bytes: int) -> float:
    """Give what averaging takes of the device: four operations an element, five arrays read or written, 5 us."""
    return size_bytes / 4 * 4 / 100e9 + 5 * size_bytes / 50e9 + 5e-6


def added_s(size_bytes: int) -> float:
    """Give what adding a neighbour's parameters takes: one operation an element, three arrays read or written, 5 us."""
    return size_bytes / 4 / 100e9 + 3 * size_bytes / 50e9 + 5e-6


def losses(timeline: Timeline) -> list[float]:
    found = sorted((each.step, each.rank, each.value) for each in timeline.observations)
    return [value for *_, value in found]


def each_step_s(timeline: Timeline) -> list[float]:
    return [max(by_rank.values()) for by_rank in timeline.steps().values()]


def without_averaging_s(method: str, workers: int) -> float:
    """Give the time of a step in which nobody communicates."""
    return each_step_s(lived({"method": method, "every": 12}, workload=WIDE, workers=workers))[0]


@pytest.mark.parametrize("every", [1, 3, 4])
def test_only_every_few_steps_communicate(every: int) -> None:
    """2 (n - 1)/n S/B more every H steps, and nothing between."""
    timeline = lived({"method": "local_sgd", "every": every}, workload=WIDE)
    times = each_step_s(timeline)
    plan, _ = plan_of({"method": "local_sgd"}, workload=WIDE)
    size = sum(parameter.size_bytes for parameter in lower(plan).model(0).parameters)  # type: ignore[attr-defined]
    own_s = without_averaging_s("local_sgd", WORKERS)
    for step, time_s in enumerate(times, 1):
        ring_s = 2 * (WORKERS - 1) * (size / WORKERS / BYTES_PER_S + HOP_S)
        extra_s = ring_s + averaging_s(size) if step % every == 0 else 0.0
        assert time_s == pytest.approx(own_s + extra_s, rel=1e-3 if extra_s else 1e-9)


def test_statistics_of_steps_are_those_of_whole_periods() -> None:
    """Three steps of four do not communicate; the step time is the mean of the four, and so are its phases."""
    timeline = lived({"method": "local_sgd", "every": 4}, workload=WIDE)
    steps = each_step_s(timeline)
    assert timeline.step_times_s() == pytest.approx([sum(steps[i : i + 4]) / 4 for i in (0, 4, 8)])
    assert sum(timeline.phases_s().values()) == pytest.approx(timeline.step_time_s())
    assert timeline.phases_s()["exposed_communication"] > 0


def test_with_one_step_it_is_training_on_the_mean_of_the_gradients() -> None:
    plan, topology = plan_of({"method": "local_sgd"})
    data, model = diabetes(2), layers_of(plan.training)  # type: ignore[arg-type]
    values = model.initial(0)
    updates = Updates(plan.training.optimizer, model.elements)
    expected = []
    for _ in range(plan.total_steps):
        gradients = []
        for shard in shards(plan.training.samples, WORKERS):
            loss, gradient = model.gradient(values, DataSet(*(part[shard.start : shard.stop] for part in data)))
            expected.append(loss / len(shard))
            gradients.append(gradient / np.float32(len(shard)))
        updates.apply(values, np.mean(gradients, axis=0))
    assert losses(predict(plan, topology).timeline) == pytest.approx(expected, rel=1e-4)


def test_without_averaging_workers_learn_alone() -> None:
    """Until they average at the end, it does not matter how they will."""
    alone, gossip = (lived({"method": method, "every": 12}) for method in ("local_sgd", "gossip"))
    assert losses(alone) == losses(gossip)


def test_momentum_of_zero_is_the_average_itself() -> None:
    plain, outer = ({"method": "local_sgd", "every": 3, "outer_momentum": momentum} for momentum in (0.0, 0.5))
    assert losses(lived(plain)) == losses(lived({"method": "local_sgd", "every": 3}))
    assert losses(lived(outer))[: 3 * WORKERS] == losses(lived(plain))[: 3 * WORKERS]
    assert losses(lived(outer)) != losses(lived(plain))


@pytest.mark.parametrize("workers", [2, 3, 5, 8])
def test_gossip_keeps_the_mean_and_draws_workers_together(workers: int) -> None:
    """Distances to the mean shrink in each round by the second eigenvalue of the ring's averages at the least."""
    plan, _ = plan_of({"method": "gossip"}, workers=workers)
    peers = [lower(plan)._peers(rank) for rank in range(workers)]  # type: ignore[attr-defined]
    learners = [local_learner(plan, rank, Share(range(10)), each) for rank, each in enumerate(peers)]
    generator = np.random.default_rng(0)
    for learner in learners:
        learner._values[:] = generator.standard_normal(len(learner._values))  # type: ignore[attr-defined]
    values = [learner._values for learner in learners]  # type: ignore[attr-defined]
    mean = np.mean(values, axis=0)
    largest = (
        0.0 if workers == 2 else max(abs(1 + 2 * math.cos(2 * math.pi * k / workers)) / 3 for k in range(1, workers))
    )
    for _ in range(5):
        before = np.linalg.norm(values - mean)
        for learner in learners:
            learner.offer()
        for learner, others in zip(learners, peers, strict=True):
            for other in others:
                learner.received(other)[:] = learners[other].offered()  # type: ignore[index]
        for learner in learners:
            learner.average()
        assert np.mean(values, axis=0) == pytest.approx(mean, abs=1e-5)
        assert np.linalg.norm(values - mean) <= largest * before + 1e-4


def test_gossip_costs_two_messages_each_way_whatever_the_number_of_workers() -> None:
    """2 S/B on each link and direction, more workers or fewer; with two workers one neighbour."""
    plan, _ = plan_of({"method": "gossip"}, workload=WIDE)
    size = sum(parameter.size_bytes for parameter in lower(plan).model(0).parameters)  # type: ignore[attr-defined]
    for workers in (4, 8):
        time_s = lived({"method": "gossip"}, workload=WIDE, workers=workers).step_time_s()
        expected_s = 2 * size / BYTES_PER_S + HOP_S + 2 * added_s(size)
        assert time_s - without_averaging_s("gossip", workers) == pytest.approx(expected_s, rel=1e-3)
