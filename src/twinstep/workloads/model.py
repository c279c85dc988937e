"""Model: the layers of a workload, each with its parameters and the kernels it runs for a number of samples."""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.kernels import ELEMENT_BYTES, Kernel


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor that is trained; the name is the one torch gives it."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Count the elements.

        >>> Parameter("weight", (3, 4)).elements
        12
        """
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return ELEMENT_BYTES * self.elements


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of the model that is computed, forward and backward, as one operation."""

    name: str
    parameters: tuple[Parameter, ...]
    """Those it reads. One that several layers read (a tied head) stands in each of them."""
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    activation_bytes: int
    """What the forward pass keeps for the backward pass."""


@dataclass(frozen=True, slots=True)
class Model:
    """A workload as one rank computes it; the last layer is the loss."""

    layers: tuple[Layer, ...]
    load: tuple[Kernel, ...]
    """Fetching the batch of a step."""
    optimizer: tuple[Kernel, ...]
    """Updating the parameters and clearing the gradients."""
    optimizer_state_bytes: int

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """List every parameter once, in the order of the layers."""
        return tuple(dict.fromkeys(parameter for layer in self.layers for parameter in layer.parameters))

    def memory_bytes(self) -> dict[str, int]:
        """Estimate a rank's peak memory by part; gradients live in the communication buckets."""
        parameters = sum(parameter.size_bytes for parameter in self.parameters)
        parts = {
            "parameters": parameters,
            "gradients": parameters,
            "optimizer_state": self.optimizer_state_bytes,
            "activations": sum(layer.activation_bytes for layer in self.layers),
        }
        return parts | {"total": sum(parts.values())}
