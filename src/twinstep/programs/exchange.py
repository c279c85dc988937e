"""Exchange: how gradients travel, compressed or not: what is computed and which collectives carry them.

A bucket takes one round or several; each is a computation, perhaps, and a collective. What comes last is decoded.

    none                          all_reduce
    fp16       encode             all_reduce                                                     decode
    int8       range              all_gather       quantize    all_gather                        decode
    power_sgd  P = M Q            all_reduce rest              all_reduce P   Q = M^T P   all_reduce Q   decode

A parameter server's push is the same among one rank, all rounds in one message (`twinstep.compression` has the bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

from twinstep.compression import Compression, Factors
from twinstep.effects import ElementType
from twinstep.kernels import ELEMENT_BYTES, Kernel

Kernels = tuple[Kernel, ...]


class Round(NamedTuple):
    """What a rank computes, and what all ranks then communicate."""

    encode: Kernels
    collective: Literal["all_reduce", "all_gather"]
    size_bytes: int
    """Of the rank's whole buffer."""
    dtype: ElementType = "float32"


class Exchange(NamedTuple):
    """All that is done to make the sum over ranks of some gradients."""

    rounds: tuple[Round, ...]
    decode: Kernels
    """What a rank computes at the end."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the buffers of all rounds."""
        return sum(each.size_bytes for each in self.rounds)

    @property
    def encode(self) -> Kernels:
        """Give what all rounds compute."""
        return tuple(kernel for each in self.rounds for kernel in each.encode)


def exchange(compression: Compression, shapes: Sequence[tuple[int, ...]], ranks: int) -> Exchange:
    """Describe how the gradients of tensors of some shapes travel among so many ranks.

    >>> exchange(Compression(kind="fp16"), [(3, 4)], ranks=2).size_bytes
    24
    """
    elements = sum(map(prod, shapes))
    size, kept = (elements,), (elements, compression.kept(elements))
    match compression.kind:
        case "none":
            found = Exchange((Round((), "all_reduce", ELEMENT_BYTES * elements),), ())
        case "fp16":
            found = _rounded("fp16", "float16", elements)
        case "bf16":
            found = _rounded("bf16", "bfloat16", elements)
        case "int8":
            scales = Round((Kernel("int8_range", size),), "all_gather", 8 * ranks)
            values = Round((Kernel("int8_encode", size),), "all_gather", elements * ranks, "uint8")
            found = Exchange((scales, values), _summed(Kernel("int8_decode", size), ranks))
        case "top_k":
            pairs = _with_feedback(compression, Kernel("top_k_encode", kept))
            gathered = Round(pairs, "all_gather", 2 * ELEMENT_BYTES * kept[1] * ranks)
            found = Exchange((gathered,), _summed(Kernel("top_k_decode", kept), ranks))
        case "random_k":
            chosen = _with_feedback(compression, Kernel("random_k_encode", kept))
            reduced = Round(chosen, "all_reduce", ELEMENT_BYTES * kept[1])
            found = Exchange((reduced,), _summed(Kernel("random_k_decode", kept), 1))
        case "power_sgd":
            found = _power_sgd(compression, shapes, elements)
    return found


def _rounded(kind: str, dtype: ElementType, elements: int) -> Exchange:
    encode, decode = (Kernel(f"{kind}_{what}", (elements,)) for what in ("encode", "decode"))
    return Exchange((Round((encode,), "all_reduce", 2 * elements, dtype),), (decode,))


def _summed(decode: Kernel, ranks: int) -> Kernels:
    """Clear the sum and add what every rank has sent."""
    return (Kernel("zero", decode.shape[:1]), *(decode,) * ranks)


def _with_feedback(compression: Compression, encode: Kernel) -> Kernels:
    """Add what was not sent before, and keep what is not sent now."""
    size = encode.shape[:1]
    if not compression.feeds_back:
        return (encode,)
    return Kernel("residual_add", size), encode, Kernel("residual_copy", size)


def _power_sgd(compression: Compression, shapes: Sequence[tuple[int, ...]], elements: int) -> Exchange:
    found = [factors for shape in shapes if (factors := compression.factors(shape))]
    rest = elements - sum(rows * columns for rows, columns, _ in found)
    feedback = compression.feeds_back
    before = (Kernel("residual_add", (elements,)), Kernel("residual_copy", (elements,))) if feedback else ()
    after = (Kernel("residual_add", (elements,)),) if feedback else ()
    project = tuple(kernel for rows, columns, rank in found for kernel in _project(Factors(rows, columns, rank)))
    again = tuple(kernel for rows, columns, rank in found for kernel in _project(Factors(columns, rows, rank)))
    rounds = [Round((), "all_reduce", ELEMENT_BYTES * rest)] if rest else []
    if found:
        rounds.append(Round((), "all_reduce", ELEMENT_BYTES * sum(rows * rank for rows, _, rank in found)))
        rounds.append(Round(again, "all_reduce", ELEMENT_BYTES * sum(columns * rank for _, columns, rank in found)))
    rounds[0] = rounds[0]._replace(encode=(*before, *project))
    return Exchange(tuple(rounds), (*(Kernel("power_sgd_expand", tuple(factors)) for factors in found), *after))


def _project(factors: Factors) -> Kernels:
    """Orthogonalize one factor, and multiply the matrix by it."""
    return Kernel("orthogonalize", (factors.columns, factors.rank)), Kernel("power_sgd_project", tuple(factors))
