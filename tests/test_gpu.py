"""The executor on a GPU: one rank, NCCL, CUDA events."""

from __future__ import annotations

import pytest
import torch

from twinstep import workflow
from twinstep.scenario import load_scenario

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_one_rank_trains_on_a_gpu() -> None:
    overrides = ["partition.data=1", "topology.device=cuda", "run.steps=10", "run.warmup=3"]
    measured = workflow.measure(load_scenario("quickstart", overrides), None, lambda share: None)
    assert len(measured.timeline.step_times_s()) == 10
    assert measured.losses[-1] < measured.losses[0]
    compute = [span for span in measured.timeline.spans if span.phase in {"forward", "backward"}]
    assert compute
    assert all(span.duration_s > 0 for span in compute)
