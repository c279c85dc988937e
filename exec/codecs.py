"""Codecs: gradients as they are sent, and back, by torch; what `twinstep.learning.codecs` does by numpy.

The calls are those of torch's communication hooks for DistributedDataParallel, but for the factors of power_sgd, which
are always orthogonalized by QR: the hook's Gram-Schmidt, for ranks of 1 and 2, gives no numbers for columns of zeros.
Gradients are sums over the global batch already, so nothing is divided by the number of ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from twinstep.learning.codecs import initial_factors, random_indices
from twinstep.plan import Plan
from twinstep.programs import Bucket

_LEVELS = 255
_LEAST_SCALE = torch.finfo(torch.float32).eps


def to_scale(flat: Tensor, found: Tensor) -> None:
    """Find the scale and the zero point of bytes that cover all values and zero, as MinMaxObserver does."""
    low, high = torch.aminmax(flat)
    low, high = low.clamp(max=0), high.clamp(min=0)
    found[0] = ((high - low) / _LEVELS).clamp(min=_LEAST_SCALE)
    found[1] = (-torch.round(low / found[0])).clamp(0, _LEVELS)


def to_bytes(flat: Tensor, scale: Tensor, found: Tensor) -> None:
    """Round to bytes."""
    found.copy_(torch.clamp(torch.round(flat / scale[0]) + scale[1], 0, _LEVELS))


def add_bytes(values: Tensor, scale: Tensor, flat: Tensor) -> None:
    """Add what bytes stand for."""
    flat += scale[0] * (values.to(torch.float32) - scale[1])


def to_pairs(flat: Tensor, kept: int, pairs: Tensor) -> Tensor:
    """Put the largest elements and their indices, as the bits of 32-bit integers, into pairs; give the indices."""
    chosen = torch.topk(flat.abs(), kept, sorted=False).indices
    pairs[:kept] = flat[chosen]
    pairs[kept:].view(torch.int32).copy_(chosen)
    return chosen


def add_pairs(pairs: Tensor, flat: Tensor) -> None:
    """Add elements at their indices."""
    kept = len(pairs) // 2
    flat.index_add_(0, pairs[kept:].view(torch.int32), pairs[:kept])


def chosen_at_random(elements: int, kept: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw distinct indices, the same for the same seed."""
    return torch.from_numpy(random_indices(elements, kept, seed)).to(device)


def orthogonalize(matrix: Tensor) -> None:
    """Make the columns orthonormal."""
    matrix.copy_(torch.linalg.qr(matrix).Q)


class Codec:
    """Gradients that are sent as they are."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat
        self.payloads: tuple[Tensor, ...] = (flat,)
        self.residual: Tensor | None = None
        """What the rank did not send; None without error feedback."""

    def beside(self) -> list[Tensor]:
        """List what is kept beside the gradients."""
        kept = [*self.payloads, *([] if self.residual is None else [self.residual])]
        return [tensor for tensor in kept if tensor is not self._flat]

    def encode(self, number: int, step: int) -> None:
        """Fill the payload of a round of a step."""

    def decode(self) -> None:
        """Turn the payloads into the sum of the gradients."""


class _Rounded(Codec):
    def __init__(self, flat: Tensor, dtype: torch.dtype) -> None:
        super().__init__(flat)
        self.payloads = (torch.zeros_like(flat, dtype=dtype),)

    def encode(self, number: int, step: int) -> None:
        self.payloads[0].copy_(self._flat)

    def decode(self) -> None:
        self._flat.copy_(self.payloads[0])


class _Int8(Codec):
    def __init__(self, flat: Tensor, ranks: int, position: int) -> None:
        super().__init__(flat)
        self._position = position
        self._scales = torch.zeros(ranks, 2, device=flat.device)
        self._values = torch.zeros(ranks, len(flat), dtype=torch.uint8, device=flat.device)
        self.payloads = (self._scales, self._values)

    def encode(self, number: int, step: int) -> None:
        scale = self._scales[self._position]
        if number == 0:
            to_scale(self._flat, scale)
        else:
            to_bytes(self._flat, scale, self._values[self._position])

    def decode(self) -> None:
        self._flat.zero_()
        for scale, values in zip(self._scales, self._values, strict=True):
            add_bytes(values, scale, self._flat)


class _Sparse(Codec):
    """What top_k and random_k have in common: what is not sent is perhaps kept."""

    def __init__(self, flat: Tensor, *, feeds_back: bool) -> None:
        super().__init__(flat)
        self.residual = torch.zeros_like(flat) if feeds_back else None

    def _add_residual(self) -> None:
        if self.residual is not None:
            self._flat += self.residual

    def _keep_all_but(self, chosen: Tensor) -> None:
        if self.residual is not None:
            self.residual.copy_(self._flat)
            self.residual[chosen] = 0


class _TopK(_Sparse):
    def __init__(self, flat: Tensor, kept: int, ranks: int, position: int, *, feeds_back: bool) -> None:
        super().__init__(flat, feeds_back=feeds_back)
        self._kept, self._position = kept, position
        self.payloads = (torch.zeros(ranks, 2 * kept, device=flat.device),)

    def encode(self, number: int, step: int) -> None:
        self._add_residual()
        self._keep_all_but(to_pairs(self._flat, self._kept, self.payloads[0][self._position]))

    def decode(self) -> None:
        self._flat.zero_()
        for pairs in self.payloads[0]:
            add_pairs(pairs, self._flat)


class _RandomK(_Sparse):
    def __init__(self, flat: Tensor, kept: int, seed: tuple[int, ...], *, feeds_back: bool) -> None:
        super().__init__(flat, feeds_back=feeds_back)
        self._seed = seed
        self._scale = 1.0 if feeds_back else len(flat) / kept
        self._chosen = torch.empty(0, dtype=torch.int64, device=flat.device)
        self.payloads = (torch.zeros(kept, device=flat.device),)

    def encode(self, number: int, step: int) -> None:
        self._add_residual()
        sent = self.payloads[0]
        self._chosen = chosen_at_random(len(self._flat), len(sent), (*self._seed, step), sent.device)
        torch.mul(self._flat[self._chosen], self._scale, out=sent)
        self._keep_all_but(self._chosen)

    def decode(self) -> None:
        self._flat.zero_()
        self._flat[self._chosen] = self.payloads[0]


class _Matrix(NamedTuple):
    """A gradient that has factors; all are views."""

    whole: Tensor
    """(rows, columns)."""
    p: Tensor
    """(rows, rank)."""
    q: Tensor
    """(columns, rank)."""


class _PowerSgd(Codec):
    def __init__(self, flat: Tensor, plan: Plan, bucket: Bucket, seed: tuple[int, ...]) -> None:
        super().__init__(flat)
        compression = plan.sync.compression
        self._ranks = plan.ranks
        self.residual = torch.zeros_like(flat) if compression.feeds_back else None
        parts = torch.split(flat, [parameter.elements for parameter in bucket.parameters])
        factors = [compression.factors(parameter.shape) for parameter in bucket.parameters]
        self._others = [part for part, found in zip(parts, factors, strict=True) if found is None]
        whole = [part for part, found in zip(parts, factors, strict=True) if found is not None]
        known = [found for found in factors if found is not None]
        self._rest = torch.zeros(sum(map(len, self._others)), device=flat.device)
        self._p = torch.zeros(sum(f.rows * f.rank for f in known), device=flat.device)
        self._q = torch.from_numpy(initial_factors([(f.columns, f.rank) for f in known], seed)).to(flat.device)
        ps = torch.split(self._p, [f.rows * f.rank for f in known])
        qs = torch.split(self._q, [f.columns * f.rank for f in known])
        self._matrices = [
            _Matrix(matrix.view(f.rows, f.columns), p.view(f.rows, f.rank), q.view(f.columns, f.rank))
            for matrix, p, q, f in zip(whole, ps, qs, known, strict=True)
        ]
        self.payloads = tuple(payload for payload in (self._rest, self._p, self._q) if len(payload))

    def encode(self, number: int, step: int) -> None:
        if number == 0:
            self._begin()
        if self.payloads[number] is self._q:
            for whole, p, q in self._matrices:
                orthogonalize(p)
                torch.mm(whole.T, p, out=q)

    def _begin(self) -> None:
        if self.residual is not None:
            self._flat += self.residual
            self.residual.copy_(self._flat)
        if self._others:
            torch.cat(self._others, out=self._rest)
        for whole, p, q in self._matrices:
            orthogonalize(q)
            torch.mm(whole, q, out=p)

    def decode(self) -> None:
        for part, summed in zip(
            self._others, torch.split(self._rest, [len(part) for part in self._others]), strict=True
        ):
            part.copy_(summed)
        for whole, p, q in self._matrices:
            torch.mm(p, q.T, out=whole)
        if self.residual is not None:
            self.residual.sub_(self._flat, alpha=1 / self._ranks)


def codec(plan: Plan, rank: int, bucket: Bucket, flat: Tensor) -> Codec:
    """Give the codec of a bucket whose gradients are views of a flat tensor."""
    compression = plan.sync.compression
    kept, feeds_back, seed = compression.kept(len(flat)), compression.feeds_back, (plan.run.seed, bucket.index)
    found: Codec
    match compression.kind:
        case "none":
            found = Codec(flat)
        case "fp16":
            found = _Rounded(flat, torch.float16)
        case "bf16":
            found = _Rounded(flat, torch.bfloat16)
        case "int8":
            found = _Int8(flat, plan.ranks, rank)
        case "top_k":
            found = _TopK(flat, kept, plan.ranks, rank, feeds_back=feeds_back)
        case "random_k":
            found = _RandomK(flat, kept, seed, feeds_back=feeds_back)
        case "power_sgd":
            found = _PowerSgd(flat, plan, bucket, seed)
    return found
