"""A pipeline of two stages made up for tests, whose times can be reckoned by hand, and reports of it."""

from __future__ import annotations

from dataclasses import replace

from twinstep.bubbles import Bubbles, Pipeline
from twinstep.communication import communication
from twinstep.compare import compare
from twinstep.report.contents import Contents, Measurement, Prediction
from twinstep.timeline import Span, Timeline

PIPELINE = Pipeline(ranks=(0, 1), first_layers=((0,), (2,)))
STEP_S = 12.0
GROUPS = {"pipeline": 2, "embedding": 2, "tensor": 2}

# Forward passes take 1 s, backward passes 2 s, messages 0.5 s, sums 0.5 s and 1 s.
#
#            0    1    2    3    4    5    6    7    8    9   10   11   12
#   rank 0   F0   F1   .............  B0------  .... B1------  sum  O
#   rank 1   .......  F0  B0------  F1   B1(t)---  ............ sum  O
_COMPUTED: dict[int, list[tuple[str, float, float]]] = {
    0: [
        ("forward[layer=0,microbatch=0]", 0.0, 0.4),
        ("forward[layer=1,microbatch=0]", 0.4, 1.0),
        ("forward[layer=0,microbatch=1]", 1.0, 2.0),
        ("backward[layer=1,microbatch=0]", 5.0, 7.0),
        ("backward[layer=1,microbatch=1]", 8.0, 10.0),
        ("optimizer", 11.0, 12.0),
    ],
    1: [
        ("forward[layer=2,microbatch=0]", 1.5, 2.5),
        ("backward[layer=2,microbatch=0]", 2.5, 4.5),
        ("forward[layer=2,microbatch=1]", 4.5, 5.5),
        ("backward[layer=3,microbatch=1]", 5.5, 6.25),
        ("backward[layer=2,microbatch=1]", 6.75, 7.5),
        ("optimizer", 11.0, 12.0),
    ],
}
_COMMUNICATED: dict[int, list[tuple[str, str, str, float, float]]] = {
    0: [
        ("pipeline", "activations", "send activations[hop=0>1,microbatch=0]", 1.0, 1.5),
        ("pipeline", "activations", "send activations[hop=0>1,microbatch=1]", 2.0, 2.5),
        ("pipeline", "gradients", "recv gradients[hop=1>0,microbatch=0]", 2.0, 5.0),
        ("pipeline", "gradients", "recv gradients[hop=1>0,microbatch=1]", 7.0, 8.0),
        ("embedding", "embedding", "all_reduce", 10.0, 11.0),
    ],
    1: [
        ("pipeline", "activations", "recv activations[hop=0>1,microbatch=0]", 0.0, 1.5),
        ("pipeline", "gradients", "send gradients[hop=1>0,microbatch=0]", 4.5, 5.0),
        ("pipeline", "activations", "recv activations[hop=0>1,microbatch=1]", 4.5, 4.5),
        ("tensor 1", "tensor", "all_reduce[layer=3,microbatch=1]", 6.25, 6.75),
        ("pipeline", "gradients", "send gradients[hop=1>0,microbatch=1]", 7.5, 8.0),
        ("embedding", "embedding", "all_reduce", 7.5, 11.0),
    ],
}


def two_stages(*, steps: int = 2, pace: float = 1.0, rename: str = "") -> Timeline:
    """Make the timeline; `pace` stretches it, `rename` goes before the names of groups and lanes."""
    spans: list[Span] = []
    for step in range(steps):
        for rank in (0, 1):
            spans += _spans(rank, step, pace, rename)
    spans.sort(key=lambda span: (span.rank, span.start_s))
    return Timeline(tuple(spans), ranks=2, warmup_steps=0)


def _spans(rank: int, step: int, pace: float, rename: str) -> list[Span]:
    def span(
        lane: str, operation: str, phase: str, start_s: float, end_s: float, size_bytes: int = 0, group: str = ""
    ) -> Span:
        times_s = [pace * (step * STEP_S + time_s) for time_s in (start_s, end_s)]
        return Span(rank, step, lane, operation, phase, times_s[0], times_s[1], size_bytes, group)  # type: ignore[arg-type]

    found = [span("step", "step", "step", 0.0, STEP_S)]
    for operation, start_s, end_s in _COMPUTED[rank]:
        found.append(span("compute", operation, operation.partition("[")[0], start_s, end_s))
    for group, lane, operation, start_s, end_s in _COMMUNICATED[rank]:
        found.append(span(rename + lane, operation, "communication", start_s, end_s, 1 << 20, rename + group))
        if not operation.startswith("send"):
            found.append(span("compute", f"wait[{operation}]", "exposed_communication", start_s, end_s))
    return found


def pipelined_contents(*, predicted: bool = True, measured: bool = True) -> Contents:
    """Make up a report of the pipeline, which took a tenth longer than predicted."""
    expected, actual = two_stages(), two_stages(pace=1.1)
    shares = Bubbles({0: 1 / 3, 1: 1 / 3}, closed_form=0.2)
    prediction = Prediction(expected, {"total": 1}, 0.01, 10, communication(expected, GROUPS), {}, shares)
    measurement = Measurement(actual, (), None, communication(actual, GROUPS), bubbles=shares)
    return Contents(
        scenario="pipeline",
        question="",
        ranks=2,
        tolerance=0.2,
        plan_yaml="partition: {pipeline: 2}\n",
        prediction=prediction if predicted else None,
        measurement=measurement if measured else None,
        comparison=compare(expected, actual, tolerance=0.2) if predicted and measured else None,
        assumptions=(),
        topology_figure=None,
        pipeline=PIPELINE,
    )


def without_pipeline(shown: Contents) -> Contents:
    """Take the pipeline away, and all groups but one."""
    prediction, measurement = (
        side
        and replace(side, bubbles=None, communication=replace(side.communication, groups=side.communication.groups[:1]))
        for side in (shown.prediction, shown.measurement)
    )
    return replace(shown, prediction=prediction, measurement=measurement, pipeline=None)
