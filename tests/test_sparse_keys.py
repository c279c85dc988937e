"""Sparse keys: bytes by their closed form, the same learning as with dense keys, on one back end and on the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.small_plans import make, predict, star

from twinstep.errors import RunError
from twinstep.learning import Share, sparse_worker
from twinstep.learning.data import DataSet, source_lines, standard_library_text
from twinstep.learning.models import layers_of
from twinstep.learning.samples import Samples
from twinstep.learning.sparse import touched, without_empty_columns
from twinstep.plan import Plan
from twinstep.programs import ParameterServer, lower, shards
from twinstep.programs.keys import key_ranges
from twinstep.timeline import Timeline
from twinstep.workloads import SparseLogisticRegression

FEATURES = 2**10
LINES = {
    "kind": "sparse_logistic_regression",
    "features": FEATURES,
    "batch": 24,
    "optimizer": {"kind": "sgd", "learning_rate": 4.0},
}
RUN: dict[str, Any] = {"steps": 6, "warmup": 1, "compute": "emulated", "jitter": 0.3, "learning": True}
ASYNCHRONOUS = {"mode": "asynchronous"}
SERVERS = [
    {"count": 1},
    {"count": 3},
    {"count": 2, "keys": "consistent_hash", "block": "64 B"},
    {"count": 3, "keys": "consistent_hash", "block": "4 KiB"},  # of two blocks: a server has none
]


def planned(workers: int, servers: dict[str, Any], sync: dict[str, Any] | None = None, **changes: Any) -> Plan:
    method = {"method": "parameter_server", "servers": {"sparse": True} | servers} | (sync or {})
    known = {"workload": LINES, "run": RUN} | changes
    return make(star(workers + servers["count"]), partition={"data": workers}, sync=method, **known)[0]


def simulated(plan: Plan) -> Timeline:
    _, topology = make(star(plan.ranks))
    return predict(plan, topology).timeline


def touched_by_hand(plan: Plan, worker: int, step: int) -> set[int]:
    """List the parameters that the rows of a worker's batch touch, looked up one by one."""
    assert isinstance(plan.workload, SparseLogisticRegression)
    if step == plan.total_steps:
        return set()
    rows = source_lines(plan.workload.features).inputs
    order = np.random.default_rng((plan.run.seed, step)).permutation(20_000)
    own = shards(plan.workload.batch, plan.workers)[worker]
    dense = rows[order[own.start : own.stop]].toarray()
    return {*np.flatnonzero((dense != 0).any(axis=0)).tolist(), plan.workload.features}


def by_the_formula(plan: Plan, worker: int, step: int) -> list[tuple[str, int]]:
    """List a worker's messages of a step: 8 + 8 t(s) + 4 t(s + 1) bytes to each server, and 8 + 4 t(s + 1) back."""
    assert isinstance(plan.workload, SparseLogisticRegression)
    now, wanted = (touched_by_hand(plan, worker, each) for each in (step, step + 1))
    found = []
    for number, ranges in enumerate(key_ranges(plan.sync.servers, plan.workload.features + 1)):
        keys, server = {*chain(*ranges)}, plan.workers + number
        if keys:
            push = 8 + 8 * len(now & keys) + 4 * len(wanted & keys)
            found.append((f"send gradients[hop={worker}>{server}]", push))
            found.append((f"recv parameters[hop={server}>{worker}]", 8 + 4 * len(wanted & keys)))
    return sorted(found)


def assert_bytes_are_by_the_formula(plan: Plan, timeline: Timeline) -> None:
    expected_of_servers: Counter[tuple[str, int]] = Counter()
    spans = defaultdict(list)
    for span in timeline.spans:
        if span.phase == "communication":
            spans[span.rank, span.step].append((span.operation, span.size_bytes))
    for worker in range(plan.workers):
        for step in range(plan.total_steps):
            expected = by_the_formula(plan, worker, step)
            assert sorted(spans[worker, step]) == expected
            expected_of_servers.update(expected)
    swapped = {"send": "recv", "recv": "send"}
    servers = Counter(
        (f"{swapped[s.operation[:4]]}{s.operation[4:]}", s.size_bytes)
        for s in timeline.spans
        if s.rank >= plan.workers and s.phase == "communication"
    )
    assert servers == expected_of_servers


@pytest.mark.parametrize("sync", [{}, ASYNCHRONOUS, {"mode": "stale_synchronous", "bound": 1}])
@pytest.mark.parametrize("servers", SERVERS)
def test_bytes_are_those_of_the_closed_form_in_every_step(servers: dict[str, Any], sync: dict[str, Any]) -> None:
    plan = planned(3, servers, sync)
    assert_bytes_are_by_the_formula(plan, simulated(plan))


@pytest.mark.slow
def test_a_server_that_has_nothing_of_a_batch_is_sent_a_header_alone() -> None:
    plan = planned(8, {"count": 64}, workload=LINES | {"batch": 8})
    timeline = simulated(plan)
    assert min(s.size_bytes for s in timeline.spans if s.operation.startswith("send gradients")) == 8
    assert_bytes_are_by_the_formula(plan, timeline)


def losses(timeline: Timeline) -> list[float]:
    """Give what workers have observed, in order of steps, then of ranks."""
    found = sorted((each.step, each.rank, each.value) for each in timeline.observations if each.name == "loss")
    return [value for *_, value in found]


def alone(plan: Plan) -> list[float]:
    """Train in one process, with all parameters: the mean loss of every worker's samples in every step."""
    assert isinstance(plan.workload, SparseLogisticRegression)
    model, shares = layers_of(plan.workload), shards(plan.workload.batch, plan.workers)
    parameters = model.initial(0)
    found = []
    for step in range(plan.total_steps):
        batches = [Samples(plan, 0, Share(share)).of(step) for share in shares]
        results = [model.gradient(parameters, batch) for batch in batches]
        found += [loss / len(share) for (loss, _), share in zip(results, shares, strict=True)]
        gradient = np.sum([gradient for _, gradient in results], axis=0) / plan.workload.batch
        parameters -= np.float32(plan.workload.optimizer.learning_rate) * gradient
    return found


@pytest.mark.parametrize("servers", SERVERS)
@pytest.mark.parametrize("workers", [1, 4])
def test_sparse_keys_learn_what_dense_keys_and_one_process_learn(workers: int, servers: dict[str, Any]) -> None:
    sparse, dense = (planned(workers, servers | {"sparse": is_sparse}) for is_sparse in (True, False))
    expected = alone(sparse)
    assert losses(simulated(sparse)) == pytest.approx(expected, rel=1e-5)
    assert losses(simulated(dense)) == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 4) for loss in expected}) > workers * 6 * 0.9  # they do change


def test_late_gradients_are_dropped_and_wanted_keys_answered() -> None:
    run = RUN | {"steps": 12, "stragglers": [{"rank": 3, "slowdown": 300}], "jitter": 0.0}
    sparse, dense = (planned(4, {"count": 1, "sparse": each}, {"backups": 1}, run=run) for each in (True, False))
    one, other = simulated(sparse), simulated(dense)
    assert max(each.value for each in one.observations if each.name == "lag") > 0
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)


def test_others_go_on_without_a_worker_that_dies() -> None:
    plan = planned(4, {"count": 2}, ASYNCHRONOUS, run=RUN | {"steps": 40})
    end_s = max(span.end_s for span in simulated(plan).spans)
    run = RUN | {"steps": 40, "deaths": [{"rank": 1, "at": f"{end_s / 2} s"}]}
    timeline = simulated(planned(4, {"count": 2}, ASYNCHRONOUS, run=run))
    assert timeline.lost == (1,)
    assert {span.step for span in timeline.spans if span.rank == 0} == set(range(41))


def test_a_worker_computes_with_what_it_has_pulled_for_the_step() -> None:
    """Each touched parameter, drawn at random, must show in the loss; none of another step may."""
    plan = planned(2, {"count": 2})
    programs, share = lower(plan), Share(range(12))
    assert isinstance(programs, ParameterServer)
    worker = sparse_worker(plan, 0, share, programs.keys)
    model, samples = layers_of(plan.workload), Samples(plan, 0, share)  # type: ignore[call-overload]
    values = np.zeros(FEATURES + 1, np.float32)
    for step in range(plan.total_steps):
        assert worker.learn(step) == pytest.approx(model.loss(values, samples.of(step)), rel=1e-5)
        values = np.random.default_rng(step).standard_normal(FEATURES + 1).astype(np.float32)
        pushes = [worker.gradients(server) for server in range(2)]
        wanted = [push[2 + 2 * int(push[1]) :].astype(int) for push in pushes if push is not None]
        assert {*np.concatenate(wanted).tolist()} == touched_by_hand(plan, 0, step + 1)
        for server in range(2):
            answer = worker.parameters(server)
            assert answer is not None
            answer[:] = [step, len(wanted[server]), *values[wanted[server]]]


def test_parameters_of_another_step_are_refused() -> None:
    plan = planned(2, {"count": 1})
    worker = sparse_worker(plan, 0, Share(range(12)), [[range(FEATURES + 1)]])
    worker.learn(0)
    answer = worker.parameters(0)
    assert answer is not None
    answer[0] = 1
    with pytest.raises(RunError, match="parameters for step 2 have come where step 1 begins"):
        worker.learn(1)


def test_loss_and_gradient_are_those_of_torch() -> None:
    data = source_lines(FEATURES)
    samples = DataSet(data.inputs[:200], data.targets[:200])
    model = layers_of(SparseLogisticRegression(kind="sparse_logistic_regression", batch=200, features=FEATURES))
    parameters = np.random.default_rng(0).standard_normal(model.elements).astype(np.float32)
    tensor = torch.from_numpy(parameters).requires_grad_()
    outputs = torch.from_numpy(samples.inputs.toarray()) @ tensor[:-1] + tensor[-1]  # type: ignore[union-attr]
    targets = torch.from_numpy(samples.targets.astype(np.float32))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
    expected.backward()  # type: ignore[no-untyped-call]
    assert tensor.grad is not None
    loss, gradient = model.gradient(parameters, samples)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert gradient == pytest.approx(tensor.grad.numpy(), rel=1e-4, abs=1e-4)
    keys: NDArray[np.int64] = touched(samples.inputs)
    assert not gradient[np.setdiff1d(np.arange(model.elements), keys)].any()
    few = model.gradient(parameters[keys], without_empty_columns(samples, keys))
    assert few[0] == pytest.approx(loss, rel=1e-6)
    assert few[1] == pytest.approx(gradient[keys], rel=1e-5, abs=1e-6)


def test_labels_tell_whether_the_next_line_is_indented_deeper() -> None:
    data = source_lines(2**16)
    lines = [line for line in standard_library_text().decode(errors="replace").split("\n") if line.strip()]
    assert data.inputs.shape == (20_000, 2**16)
    assert len(data.targets) == 20_000
    for row in range(300):
        one, other = (len(line) - len(line.lstrip()) for line in lines[row : row + 2])
        assert data.targets[row] == (other > one)
        assert 1 <= data.inputs[[row]].nnz <= len(lines[row].strip())  # type: ignore[union-attr]
    assert 0.1 < data.targets.mean() < 0.4


def test_the_loss_falls() -> None:
    workload = LINES | {"batch": 512, "features": 2**14, "optimizer": {"kind": "sgd", "learning_rate": 16.0}}
    found = losses(simulated(planned(4, {"count": 2}, workload=workload, run=RUN | {"steps": 40})))
    assert np.mean(found[:4]) == pytest.approx(np.log(2), rel=1e-5)
    assert np.mean(found[-4:]) < 0.35
