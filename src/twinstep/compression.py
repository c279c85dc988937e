"""Compression: what ranks send of their gradients, as a scenario file says it.

Of E gradients, top_k and random_k send k = max(1, ratio E); power_sgd sends factors of rank r of a matrix of m rows
and c columns, where these have less than half of its elements, and the U other gradients whole. Bytes of n ranks:

| kind | collectives | bytes of a rank's whole buffer |
|---|---|---|
| none | all_reduce | 4 E |
| fp16, bf16 | all_reduce | 2 E |
| int8 | all_gather of scale and zero point, all_gather of values | 8 n, n E |
| top_k | all_gather of values and indices | 8 n k |
| random_k | all_reduce | 4 k |
| power_sgd | all_reduce of the others, of all P, of all Q | 4 U, 4 r m, 4 r c, summed over the matrices |

fp16, bf16, int8 and power_sgd do what torch's communication hooks for DistributedDataParallel do
(`torch.distributed.algorithms.ddp_comm_hooks`, torch 2.13). Sources: Lin et al., "Deep gradient compression", 2018;
Stich et al., "Sparsified SGD with memory", 2018; Vogels et al., "PowerSGD", 2019.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from twinstep.strict_model import StrictModel
from twinstep.units import Fraction

_DEFAULT_RATIO = 0.01
_LEAST_RATE = 2
"""How many times as many elements a matrix must have as its factors (`min_compression_rate` of torch's hook)."""


class Factors(NamedTuple):
    """A matrix that power_sgd compresses: P (rows, rank) times the transpose of Q (columns, rank)."""

    rows: int
    columns: int
    rank: int


class Compression(StrictModel):
    """What ranks send of their gradients."""

    kind: Literal["none", "fp16", "bf16", "int8", "top_k", "random_k", "power_sgd"] = "none"
    """All of it; rounded to 16 bits or to 8; the largest elements or random ones alone; or factors of low rank."""
    ratio: Fraction = _DEFAULT_RATIO
    """Share of the elements that are sent, where the kind is top_k or random_k."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 1
    """Rank of the factors, where the kind is power_sgd."""
    error_feedback: bool = True
    """Whether a rank adds what it did not send to its next gradient, where the kind is top_k, random_k or
    power_sgd."""

    @property
    def words(self) -> str:
        """Say what is sent.

        >>> Compression(kind="top_k").words
        'top_k, 1 % of the elements, with error feedback'
        """
        options = {
            "top_k": f", {100 * self.ratio:g} % of the elements",
            "random_k": f", {100 * self.ratio:g} % of the elements",
            "power_sgd": f", factors of rank {self.rank}",
        }
        return self.kind + options.get(self.kind, "") + (", with error feedback" if self.feeds_back else "")

    @property
    def feeds_back(self) -> bool:
        """Tell whether what is not sent is kept for the next step."""
        return self.error_feedback and self.kind in ("top_k", "random_k", "power_sgd")

    def kept(self, elements: int) -> int:
        """Count the elements that are sent of so many.

        >>> Compression(kind="top_k", ratio=0.1).kept(25), Compression(kind="top_k", ratio=0.1).kept(5)
        (2, 1)
        """
        return max(1, int(self.ratio * elements))

    def factors(self, shape: tuple[int, ...]) -> Factors | None:
        """Give the factors of a tensor, as a matrix of its first axis by all others; None where they save too little.

        >>> Compression(kind="power_sgd", rank=2).factors((64, 32))
        Factors(rows=64, columns=32, rank=2)
        >>> Compression(kind="power_sgd").factors((64,)) is None
        True
        """
        rows, columns = shape[0], 1
        for size in shape[1:]:
            columns *= size
        rank = min(rows, columns, self.rank)
        return Factors(rows, columns, rank) if (rows + columns) * rank * _LEAST_RATE < rows * columns else None

    @model_validator(mode="after")
    def _options_of_the_kind(self) -> Compression:
        options = (
            ("ratio", self.ratio != _DEFAULT_RATIO, ("top_k", "random_k")),
            ("rank", self.rank != 1, ("power_sgd",)),
            ("error_feedback", not self.error_feedback, ("top_k", "random_k", "power_sgd")),
        )
        for name, is_set, kinds in options:
            if is_set and self.kind not in kinds:
                words = ", ".join(kinds)
                raise ValueError(f"sync.compression.{name} applies to kind {words}: leave it out for {self.kind}")
        return self
