"""The shape of a GPT: its sizes, as one of the ranks that share it computes it for some samples."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.kernels import ELEMENT_BYTES
from twinstep.workloads.family import Family


@dataclass(frozen=True, slots=True)
class GptShape:
    """A GPT as one of `tensor` ranks computes it for some samples."""

    blocks: int
    heads: int
    width: int
    context: int
    vocabulary: int
    samples: int
    tensor: int = 1
    """Ranks that share each block; divides heads, width and vocabulary."""
    family: Family = field(default_factory=Family)
    ring: int = 1
    """Ranks that share the tokens of each sample; divides context."""
    sequence_parallel: bool = False
    """Whether the ranks that share a block also share the tokens of the residual stream; tensor divides them."""

    @property
    def tokens(self) -> int:
        """Tokens of all samples, those of this rank's share of each."""
        return self.samples * self.context // self.ring

    @property
    def own_tokens(self) -> int:
        """Tokens of the residual stream that this rank alone has, of the ranks that share a block."""
        return self.tokens // self.tensor if self.sequence_parallel else self.tokens

    @property
    def own_stream_bytes(self) -> int:
        """Bytes of the residual stream that this rank has between layers: what is sent between stages."""
        return ELEMENT_BYTES * self.own_tokens * self.width

    @property
    def keys_and_values_bytes(self) -> int:
        """Bytes of this rank's keys and values in one block."""
        return 2 * ELEMENT_BYTES * self.tokens * self.kv_heads * self.head_width // self.tensor

    @property
    def stream_bytes(self) -> int:
        """Bytes of the residual stream: what is summed after each half of a block."""
        return ELEMENT_BYTES * self.tokens * self.width

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.family.kv_heads or self.heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.family.head_width or self.width // self.heads

    @property
    def feed_forward(self) -> int:
        """Inner width of the feed-forward or of an expert, on all ranks together."""
        return self.family.feed_forward or 4 * self.width

    @property
    def position_table(self) -> int:
        """Rows of the table of positions."""
        return self.family.position_table or self.context
