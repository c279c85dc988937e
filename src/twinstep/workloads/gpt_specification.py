"""The options of workload `gpt`, as a scenario file gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from twinstep.strict_model import StrictModel
from twinstep.workloads.family import Family
from twinstep.workloads.gpt import VOCABULARY, gpt_layers
from twinstep.workloads.gpt_shape import GptShape
from twinstep.workloads.optimizer import Optimizer

_FROM_CONFIG = ("layers", "heads", "width")


def _allow_config(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema that a file may stand for the sizes."""
    schema["required"] = [key for key in schema["required"] if key not in _FROM_CONFIG]
    schema["anyOf"] = [{"required": ["config"]}, {"required": list(_FROM_CONFIG)}]


class _Sizes(StrictModel):
    kind: Literal["gpt"]
    layers: Annotated[int, Field(ge=1, le=1024)]
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1, le=1024)]
    """Attention heads of a block; must divide `width`, unless there is a `head_width`."""
    width: Annotated[int, Field(ge=1, le=65536)]
    """Width of the residual stream."""
    context: Annotated[int, Field(ge=1, le=2**20)]
    """Tokens (bytes of text) of a sample."""
    vocabulary: Annotated[int, Field(ge=256, le=2**20)] = VOCABULARY
    """Tokens there are: 256 bytes, or more where compute is emulated."""
    batch: Annotated[int, Field(ge=1, le=65536)]
    """Samples of a global batch, over all ranks."""
    optimizer: Optimizer = Optimizer(kind="adamw", learning_rate=0.001)
    """How parameters are updated."""
    config: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A model that comes with twinstep, e.g. `llama-3.1-8b`, or the path of a Hugging Face config.json below the
    scenario: it gives what the other keys leave out."""


class Gpt(Family, _Sizes):
    """A GPT that predicts the next byte of the Python standard library's own sources, or of a given family and size."""

    model_config = ConfigDict(json_schema_extra=_allow_config)

    @model_validator(mode="after")
    def _fits(self) -> Gpt:
        for misfit in _misfits(self):
            raise ValueError(misfit)
        return self

    @property
    def samples(self) -> int:
        """Samples of a global batch."""
        return self.batch

    @property
    def parameter_count(self) -> int:
        """Count the elements of all parameters of the model."""
        layers = gpt_layers(self.shape(1))
        return sum(parameter.elements for parameter in {each for layer in layers for each in layer.parameters})

    @property
    def active_parameter_count(self) -> int:
        """Count the elements of parameters that one token meets: all but those of experts that it does not go to."""
        if not self.is_mixture:
            return self.parameter_count
        expert = (3 if self.gated else 2) * self.width * self.shape(1).feed_forward
        return self.parameter_count - self.layers * (self.experts - self.experts_per_token) * expert

    @property
    def beyond_torch(self) -> str:
        """Name an option that the torch modules do not have; empty where they have all."""
        implied = {
            "kv_heads": self.heads,
            "head_width": self.width // self.heads,
            "feed_forward": 4 * self.width,
            "position_table": self.context,
            "experts": 1,
        }
        for name, field in Family.model_fields.items():
            if getattr(self, name) not in (field.default, implied.get(name, field.default)):
                return name
        return ""

    def shape(self, samples: int, tensor: int = 1, ring: int = 1, sequence_parallel: bool = False) -> GptShape:
        """Give the shape of the model for some samples, as one of `tensor` x `ring` ranks computes it."""
        sizes = (self.layers, self.heads, self.width, self.context, self.vocabulary)
        return GptShape(*sizes, samples, tensor, self, ring, sequence_parallel)


def _misfits(gpt: Gpt) -> Iterator[str]:
    """Say which options do not go together, with the remedy."""
    shape = gpt.shape(1)
    if gpt.config is not None:
        yield "config is read with a scenario file alone: give layers, heads and width instead"
    if gpt.head_width is None and gpt.width % gpt.heads:
        yield f"heads ({gpt.heads}) must divide width ({gpt.width})"
    if gpt.heads % shape.kv_heads:
        yield f"kv_heads ({gpt.kv_heads}) must divide heads ({gpt.heads})"
    if gpt.positions == "rotary" and shape.head_width % 2:
        yield f"positions rotary needs heads of an even width, not {shape.head_width}: set head_width"
    if gpt.positions == "rotary" and gpt.position_table:
        yield f"position_table ({gpt.position_table}) needs positions learned: remove it"
    if shape.position_table < gpt.context:
        yield f"position_table ({gpt.position_table}) must not be less than context ({gpt.context})"
    yield from _misfits_of_experts(gpt)


def _misfits_of_experts(gpt: Gpt) -> Iterator[str]:
    if gpt.is_mixture and gpt.experts_per_token > gpt.experts:
        yield f"experts_per_token ({gpt.experts_per_token}) is more than experts ({gpt.experts}): lower it"
    for name in ("experts_per_token", "shared_expert", "capacity_factor", "imbalance"):
        if not gpt.is_mixture and getattr(gpt, name) != Family.model_fields[name].default:
            yield f"{name} ({getattr(gpt, name)}) needs experts of 2 or more: remove it"
