"""Layers: when each one's forward and backward pass begins and ends, told by hooks.

The backward pass of a layer begins when the gradient of its output is known, and ends when that of its input is: at
the nodes of the graph that made these tensors. Wrappers that gather parameters before a layer and reduce gradients
after it do so outside of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd import Variable

from twinstep.exec.native.recorder import Recorder
from twinstep.timeline import Phase


class SeenLayers:
    """Sees the passes of layers. It must be told before a wrapper adds hooks of its own."""

    def __init__(self, recorder: Recorder, layers: Sequence[nn.Module]) -> None:
        self._recorder = recorder
        self.count = len(layers)
        """Of layers; the loss is computed after the last of them."""
        self.microbatch: int | None = None
        """Which microbatch is computed; None where there is one."""
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._before(index))
            layer.register_forward_hook(self._after(index))

    def _before(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._at_gradient(inputs[0], layer, begins=False)
            self._recorder.start("forward", layer, self.microbatch)

        return hook

    def _after(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._recorder.stop()
            self._at_gradient(output, layer, begins=True)

        return hook

    def _at_gradient(self, tensor: Tensor, layer: int, *, begins: bool) -> None:
        """Have it noted when the gradient of a tensor is known."""
        if tensor.grad_fn is None:
            return
        what: tuple[Phase, int, int | None] = ("backward", layer, self.microbatch)
        note = self._recorder.start if begins else self._recorder.stop
        tensor.grad_fn.register_prehook(lambda gradients: note(*what))

    def at_end_of_graph(self, loss: Tensor) -> None:
        """Have it noted when the backward pass of a loss has nothing left to compute, before wrappers finish it."""

        def hook(gradients: Any) -> None:
            Variable._execution_engine.queue_callback(self._recorder.end_of_graph)

        if loss.grad_fn is not None:
            loss.grad_fn.register_prehook(hook)
