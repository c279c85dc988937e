"""Passes: what a worker computes in a step before anything is communicated or updated."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twinstep.effects import Compute, Effect, Learn, Observe, Program
from twinstep.plan import Plan
from twinstep.workloads import Model

EVALUATIONS = 20
"""How often in a run, at the most, a worker evaluates its parameters on all samples: it takes as long as a step with
all of them, which must pass while the device of the worker is busy."""


def passes(model: Model) -> list[Effect]:
    """List loading, the forward pass of every layer, and the backward pass of every layer."""
    layers = list(enumerate(model.layers))
    found: list[Effect] = [Compute("load", model.load)] if model.load else []
    found += [Compute("forward", layer.forward, index) for index, layer in layers]
    found += [Compute("backward", layer.backward, index) for index, layer in reversed(layers)]
    return found


def observed(loss: float | None, name: str = "loss") -> Generator[Observe, Any, None]:
    """Observe a loss, where there is one."""
    if loss is not None:
        yield Observe(name, loss)


def learnt(plan: Plan, work: Callable[[], float | None], name: str = "loss") -> Program:
    """Learn, where the plan does, and observe the loss that comes of it."""
    if plan.run.learning:
        yield from observed((yield Learn(work)), name)


def evaluates(plan: Plan, step: int) -> bool:
    """Tell whether a step begins with parameters that are evaluated: some that workers have just agreed on."""
    every = plan.sync.every
    rounds = -(-plan.total_steps // every)
    return step % (every * -(-rounds // EVALUATIONS)) == 0
