"""Model configurations: the sizes of a GPT, from the config.json that Hugging Face's transformers keeps beside a model.

What a key is called there, and what is meant where it is missing, depends on the `model_type`. Keys that do not change
sizes (token numbers, precision, dropout) are passed over; those that would change what is computed, in a way that the
workload does not describe, are refused. Sources: transformers, `configuration_*.py` and `modeling_*.py` of each type.

| model_type | blocks are |
|---|---|
| gpt2 | layer norms, GELU and biases everywhere, learned positions |
| llama, mistral | RMS norms, SwiGLU, rotary positions, grouped-query attention |
| qwen2 | the same with biases of queries, keys and values |
| qwen3 | the same with norms of queries and keys in their place |
| mixtral, qwen2_moe, qwen3_moe | those of mistral, qwen2 and qwen3 with experts, qwen2_moe with a shared one, too |
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from twinstep.errors import InputError
from twinstep.folders import inside
from twinstep.strict_yaml import Document, describe_validation, did_you_mean, read
from twinstep.yaml_composer import cut

_SHIPPED = Path(__file__).parent / "scenarios" / "models"
_SUFFIX = ".json"
_Size = Annotated[int, Field(ge=1)]


def shipped_models() -> list[str]:
    """Name the models whose sizes come with twinstep."""
    return sorted(path.stem for path in _SHIPPED.glob(f"*{_SUFFIX}"))


def with_config(document: Document, folder: Path) -> Document:
    """Replace the key `config` of a scenario's workload by what the file says; keys beside it take precedence.

    `folder` is the scenario's. Raises InputError naming file, key and remedy where the file cannot be used.
    """
    workload = document.data.get("workload") if isinstance(document.data, dict) else None
    if not isinstance(workload, dict) or workload.get("kind") != "gpt" or not isinstance(workload.get("config"), str):
        return document
    config = _read(_find(workload["config"], folder, document))
    given = {key: value for key, value in workload.items() if key != "config"}
    context = given.get("context")
    if config.window is not None and isinstance(context, int) and context > config.window:
        raise InputError(
            f"workload.context ({context}) is more than the {config.window} tokens that attention of this model looks "
            "back to, and such a window is not described",
            remedy=f"lower it to {config.window} or less",
            place=document.place,
            line=document.line_of(("workload", "context")),
        )
    filled = config.fixed | config.model_dump(exclude_none=True) | given
    return Document(document.data | {"workload": filled}, document.lines, document.place)


def _find(name: str, folder: Path, document: Document) -> Path:
    line = document.line_of(("workload", "config"))
    if name.endswith(_SUFFIX):
        try:
            return inside(name, folder)
        except InputError as error:
            raise InputError(error.problem, remedy=error.remedy, place=document.place, line=line) from error
    if name not in shipped_models():
        remedy = f"{did_you_mean(name, shipped_models())}; or give a path that ends in {_SUFFIX}"
        raise InputError(f"there is no model {cut(repr(name))}", remedy=remedy, place=document.place, line=line)
    return _SHIPPED / f"{name}{_SUFFIX}"


def _read(path: Path) -> _Config:
    document = read(path)  # what is JSON is YAML as well, and both are read with the same care
    try:
        return TypeAdapter(_AnyConfig).validate_python(document.data)
    except ValidationError as error:
        raise describe_validation(error, document, _AnyConfig) from None


def _all_alike(value: int | list[int]) -> int | list[int]:
    if value not in (1, []):
        raise ValueError("blocks without experts among those with them are not described: use a model that has none")
    return value


def _absent(value: bool) -> bool:
    if value:
        raise ValueError("such biases are not described: remove config, and give the workload's own keys")
    return value


_NoBias = Annotated[bool, AfterValidator(_absent), Field(exclude=True)]


class _Config(BaseModel):
    """What is read of a config.json, by the workload's names."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    fixed: ClassVar[dict[str, Any]]
    """Keys of the workload that all models of the type have in common."""

    vocabulary: _Size = Field(validation_alias="vocab_size")

    @property
    def window(self) -> int | None:
        """Tokens that attention looks back to; None for all."""
        return None


class _Gpt2(_Config):
    fixed = {"kind": "gpt", "biases": "all"}

    model_type: Literal["gpt2"] = Field(exclude=True)
    layers: _Size = Field(validation_alias="n_layer")
    heads: _Size = Field(validation_alias="n_head")
    width: _Size = Field(validation_alias="n_embd")
    position_table: _Size = Field(validation_alias="n_positions")
    feed_forward: _Size | None = Field(None, validation_alias="n_inner")
    tied: bool = Field(True, validation_alias="tie_word_embeddings")
    activation: Literal["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"] = Field(
        "gelu_new", validation_alias="activation_function", exclude=True
    )


class _Rotary(_Config):
    """What all types but gpt2 have in common."""

    fixed = {"kind": "gpt", "gated": True, "norm": "rms", "positions": "rotary"}

    layers: _Size = Field(validation_alias="num_hidden_layers")
    heads: _Size = Field(validation_alias="num_attention_heads")
    kv_heads: _Size | None = Field(None, validation_alias="num_key_value_heads")
    width: _Size = Field(validation_alias="hidden_size")
    head_width: _Size | None = Field(None, validation_alias="head_dim")
    feed_forward: _Size = Field(validation_alias="intermediate_size")
    tied: bool = Field(False, validation_alias="tie_word_embeddings")
    activation: Literal["silu"] = Field("silu", validation_alias="hidden_act", exclude=True)


class _Llama(_Rotary):
    model_type: Literal["llama"] = Field(exclude=True)
    attention_bias: _NoBias = False
    mlp_bias: _NoBias = False


class _Mistral(_Rotary):
    model_type: Literal["mistral"] = Field(exclude=True)
    kv_heads: _Size = Field(validation_alias="num_key_value_heads")
    sliding_window: _Size | None = Field(None, exclude=True)

    @property
    def window(self) -> int | None:
        """Tokens that attention looks back to; None for all."""
        return self.sliding_window


class _Mixtral(_Mistral):
    model_type: Literal["mixtral"] = Field(exclude=True)  # type: ignore[assignment]
    experts: _Size = Field(validation_alias="num_local_experts")
    experts_per_token: _Size = Field(validation_alias="num_experts_per_tok")


class _Qwen(_Rotary):
    """What all types of Qwen have in common."""

    kv_heads: _Size = Field(validation_alias="num_key_value_heads")
    sliding_window: _Size | None = Field(None, exclude=True)
    use_sliding_window: bool = Field(False, exclude=True)

    @property
    def window(self) -> int | None:
        """Tokens that attention looks back to; None for all."""
        return self.sliding_window if self.use_sliding_window else None


class _Qwen2(_Qwen):
    fixed = _Rotary.fixed | {"biases": "qkv"}

    model_type: Literal["qwen2"] = Field(exclude=True)


class _Qwen3(_Qwen):
    fixed = _Rotary.fixed | {"head_norms": True}

    model_type: Literal["qwen3"] = Field(exclude=True)
    head_width: _Size = Field(validation_alias="head_dim")
    attention_bias: _NoBias = False


class _QwenMixture(_Qwen):
    """What Qwen's mixtures of experts have in common."""

    feed_forward: _Size = Field(validation_alias="moe_intermediate_size")
    experts: _Size = Field(validation_alias="num_experts")
    experts_per_token: _Size = Field(validation_alias="num_experts_per_tok")
    decoder_sparse_step: Annotated[int, AfterValidator(_all_alike)] = Field(1, exclude=True)
    mlp_only_layers: Annotated[list[int], AfterValidator(_all_alike)] = Field(default_factory=list, exclude=True)


class _Qwen2Moe(_QwenMixture):
    fixed = _Qwen2.fixed

    model_type: Literal["qwen2_moe"] = Field(exclude=True)
    shared_expert: _Size = Field(validation_alias="shared_expert_intermediate_size")


class _Qwen3Moe(_QwenMixture):
    fixed = _Qwen3.fixed

    model_type: Literal["qwen3_moe"] = Field(exclude=True)
    head_width: _Size = Field(validation_alias="head_dim")
    attention_bias: _NoBias = False


_AnyConfig = Annotated[
    _Gpt2 | _Llama | _Mistral | _Mixtral | _Qwen2 | _Qwen3 | _Qwen2Moe | _Qwen3Moe, Field(discriminator="model_type")
]
