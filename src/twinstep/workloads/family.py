"""Family: what tells GPTs of one family from those of another, as a scenario file says it.

The defaults are the GPT that real compute has: pre-norm blocks without biases, as many key heads as query heads, a
feed-forward of four widths with GELU, learned positions, a head tied to the token embedding.

| family | is described by |
|---|---|
| GPT-2 | biases all |
| Llama, Mistral | kv_heads, feed_forward, gated, norm rms, positions rotary, tied false |
| Qwen2 | the same, biases qkv |
| Qwen3 | the same without biases, head_width, head_norms |
| Mixtral, Qwen-MoE | the same, experts, experts_per_token, shared_expert |

Sources: Shazeer, "GLU variants improve transformer", 2020; Zhang and Sennrich, "Root mean square layer normalization",
2019; Su et al., "RoFormer", 2021; Ainslie et al., "GQA", 2023; Jiang et al., "Mixtral of experts", 2024.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twinstep.strict_model import StrictModel

_SIZE = Field(ge=1, le=2**20)


class Family(StrictModel):
    """What tells GPTs of one family from those of another."""

    kv_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Heads of keys and values (grouped-query attention); must divide `heads`, which is the default."""
    head_width: Annotated[int, _SIZE] | None = None
    """Width of a head; default: width / heads."""
    head_norms: bool = False
    """Whether queries and keys are normalised head by head."""
    feed_forward: Annotated[int, _SIZE] | None = None
    """Inner width of the feed-forward, or of each expert; default: 4 width."""
    gated: bool = False
    """Whether the feed-forward is gated (SwiGLU, three products) or not (GELU, two)."""
    norm: Literal["layer", "rms"] = "layer"
    """Layer norm, or root mean square norm."""
    positions: Literal["learned", "rotary"] = "learned"
    """A table of positions beside that of tokens, or rotated queries and keys, which have no parameters."""
    position_table: Annotated[int, _SIZE] | None = None
    """Rows of the table of positions; default: `context`."""
    tied: bool = True
    """Whether the head has the token embedding's weight, or one of its own."""
    biases: Literal["none", "qkv", "all"] = "none"
    """Which products and norms have biases: none, those of queries, keys and values, or all but the head's."""
    experts: Annotated[int, Field(ge=0, le=4096)] = 0
    """Experts of every block (a mixture of experts); 0 or 1 is one feed-forward for all tokens."""
    experts_per_token: Annotated[int, Field(ge=1, le=4096)] = 1
    """Experts that a token goes to."""
    shared_expert: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Inner width of an expert for all tokens, with a gate of its own; 0 is none."""
    capacity_factor: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | None = None
    """An expert takes at most this many times its equal part of a rank's tokens, the rest are dropped; default: all."""
    imbalance: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 0.0
    """How unequal experts are loaded, as Zipf's exponent s: the k-th most popular has a weight of k^-s; 0 is equal."""

    @property
    def is_mixture(self) -> bool:
        """Tell whether a block has more than one expert."""
        return self.experts > 1
