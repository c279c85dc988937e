"""Slots: which pass of which microbatch torch computes, told from within.

Schedules of torch call three public methods of a stage, one a slot. A stage of this kind has a note taken around each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch.distributed.pipelining import PipelineStage

from twinstep.exec.native.layers import SeenLayers
from twinstep.exec.native.recorder import Recorder
from twinstep.programs.schedules import Direction, computed
from twinstep.timeline import Phase


class StageSlot(NamedTuple):
    """A pass of a microbatch through a stage; `str` gives torch's own name of it, as `2F0`."""

    stage: int
    kind: Direction
    """Forward, backward, or the two halves of backward: gradients of inputs, gradients of weights."""
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


Around = Callable[[StageSlot], AbstractContextManager[Any]]
"""Gives what is entered before a slot's computation and left after it."""


def unnoticed(slot: StageSlot) -> AbstractContextManager[None]:
    """Take no note of a slot."""
    return nullcontext()


class SeenSlots:
    """Has slots noted, and the passes of layers in them as far as hooks tell."""

    def __init__(self, recorder: Recorder, seen: SeenLayers) -> None:
        self._recorder = recorder
        self._seen = seen

    @contextmanager
    def around(self, slot: StageSlot) -> Iterator[None]:
        """Note a slot's computation."""
        self._seen.microbatch = slot.microbatch
        phases: dict[Direction | None, Phase] = {"F": "forward", "W": "weight_gradients"}
        phase = phases.get(computed(slot.kind, slot.stage), "backward")
        self._recorder.start(phase, microbatch=slot.microbatch)
        yield
        self._recorder.stop()


class NotedStage(PipelineStage):
    """torch's stage, with a context around each of its computations, but not around messages."""

    def __init__(self, *args: Any, around: Around, **options: Any) -> None:
        super().__init__(*args, **options)
        self._around = around
        self._latest = StageSlot(self.stage_index, "F", 0)

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **options: Any) -> Any:
        """Compute the forward pass of a microbatch."""
        with self._enter("F", fwd_chunk_id):
            return super().forward_one_chunk(fwd_chunk_id, *args, **options)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """Compute the backward pass of a microbatch, or the gradients of its inputs alone."""
        with self._enter("B" if full_backward else "I", bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """Compute the gradients of weights that were left out before."""
        with self._enter("W", bwd_chunk_id):
            super().backward_weight_one_chunk(bwd_chunk_id, last_backward)

    def again(self) -> AbstractContextManager[Any]:
        """Enter the latest slot once more: torch's schedules compute the loss when the forward pass has been left."""
        return self._around(self._latest)

    def _enter(self, kind: Direction, microbatch: int) -> AbstractContextManager[Any]:
        self._latest = StageSlot(self.stage_index, kind, microbatch)
        return self._around(self._latest)
