"""Codecs: gradients as they are sent, and back, on flat arrays.

A codec has one array of gradients, and a payload for each round (`twinstep.programs.exchange`). Encoding fills the
rank's part of a payload from the gradients; when the payload has been summed, or gathered row by row, in every round,
decoding leaves the sum of all ranks' gradients. With error feedback a rank keeps what it did not send:

    sent by all ranks + residuals of all ranks = gradients of all ranks
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstep import bfloat16
from twinstep.compression import Compression
from twinstep.learning.data import Floats, Labels

Payload = NDArray[Any]
_LEVELS = 255
_LEAST_SCALE = np.finfo(np.float32).eps


class Place(NamedTuple):
    """Where a codec is."""

    ranks: int
    """How many add their gradients."""
    position: int
    """The rank's own among them."""
    seed: tuple[int, ...]
    """The same on all of them."""


class Codec:
    """Gradients that are sent as they are."""

    def __init__(self, elements: int) -> None:
        self.gradient: Floats = np.zeros(elements, np.float32)
        """Before encoding a rank's own, after decoding the sum of all ranks'."""
        self.payloads: tuple[Payload, ...] = (self.gradient,)
        self.residual: Floats | None = None
        """What the rank did not send; None without error feedback."""

    def encode(self, number: int, step: int) -> None:
        """Fill the payload of a round of a step."""

    def decode(self, step: int) -> None:
        """Turn the payloads into the sum of the gradients."""


class _Fp16(Codec):
    def __init__(self, elements: int) -> None:
        super().__init__(elements)
        self._sent = np.zeros(elements, np.float16)
        self.payloads = (self._sent,)

    def encode(self, number: int, step: int) -> None:
        self._sent[:] = self.gradient

    def decode(self, step: int) -> None:
        self.gradient[:] = self._sent


class _Bf16(Codec):
    def __init__(self, elements: int) -> None:
        super().__init__(elements)
        self._sent = np.zeros(elements, np.uint16)
        self.payloads = (self._sent,)

    def encode(self, number: int, step: int) -> None:
        self._sent[:] = bfloat16.to_bits(self.gradient)

    def decode(self, step: int) -> None:
        self.gradient[:] = bfloat16.to_floats(self._sent)


class _Int8(Codec):
    """Scale and zero point of a rank's gradients first, then a byte for each of them."""

    def __init__(self, elements: int, place: Place) -> None:
        super().__init__(elements)
        self._position = place.position
        self._scales = np.zeros((place.ranks, 2), np.float32)
        self._values = np.zeros((place.ranks, elements), np.uint8)
        self.payloads = (self._scales, self._values)

    def encode(self, number: int, step: int) -> None:
        if number == 0:
            low, high = min(self.gradient.min(), 0), max(self.gradient.max(), 0)
            scale = max(np.float32((high - low) / np.float32(_LEVELS)), _LEAST_SCALE)
            self._scales[self._position] = scale, np.clip(-np.round(low / scale), 0, _LEVELS)
            return
        scale, zero = self._scales[self._position]
        self._values[self._position] = np.clip(np.round(self.gradient / scale) + zero, 0, _LEVELS)

    def decode(self, step: int) -> None:
        self.gradient[:] = 0
        for (scale, zero), values in zip(self._scales, self._values, strict=True):
            self.gradient += scale * (values.astype(np.float32) - zero)


class _Sparse(Codec):
    """What top_k and random_k have in common: some of the elements are sent, the others perhaps kept."""

    def __init__(self, elements: int, compression: Compression) -> None:
        super().__init__(elements)
        self._kept = compression.kept(elements)
        self.residual = np.zeros_like(self.gradient) if compression.feeds_back else None

    def _send(self, chosen: Labels) -> Floats:
        """Give the chosen elements, and keep the others."""
        if self.residual is None:
            return self.gradient[chosen]
        self.residual += self.gradient
        sent = self.residual[chosen]
        self.residual[chosen] = 0
        return sent

    def _wanted(self) -> Floats:
        """Give what would be sent if all of it were."""
        return self.gradient if self.residual is None else self.gradient + self.residual


class _TopK(_Sparse):
    """Each rank's largest elements, then their indices as the bits of 32-bit integers."""

    def __init__(self, elements: int, compression: Compression, place: Place) -> None:
        super().__init__(elements, compression)
        self._position = place.position
        self._pairs = np.zeros((place.ranks, 2 * self._kept), np.float32)
        self.payloads = (self._pairs,)

    def encode(self, number: int, step: int) -> None:
        chosen = np.argpartition(np.abs(self._wanted()), -self._kept)[-self._kept :]
        own = self._pairs[self._position]
        own[: self._kept] = self._send(chosen)
        own[self._kept :].view(np.int32)[:] = chosen

    def decode(self, step: int) -> None:
        self.gradient[:] = 0
        for row in self._pairs:
            self.gradient[row[self._kept :].view(np.int32)] += row[: self._kept]


class _RandomK(_Sparse):
    """The same random elements on all ranks; without feedback scaled up, so that their expectation is the gradient."""

    def __init__(self, elements: int, compression: Compression, place: Place) -> None:
        super().__init__(elements, compression)
        self._seed = place.seed
        self._scale = np.float32(1 if compression.feeds_back else elements / self._kept)
        self._sent = np.zeros(self._kept, np.float32)
        self.payloads = (self._sent,)

    def encode(self, number: int, step: int) -> None:
        self._sent[:] = self._send(self._chosen(step)) * self._scale

    def decode(self, step: int) -> None:
        self.gradient[:] = 0
        self.gradient[self._chosen(step)] = self._sent

    def _chosen(self, step: int) -> Labels:
        return random_indices(len(self.gradient), self._kept, (*self._seed, step))


class _Matrix(NamedTuple):
    """A gradient that has factors; all are views."""

    whole: Floats
    """(rows, columns)."""
    p: Floats
    """(rows, rank)."""
    q: Floats
    """(columns, rank)."""


class _PowerSgd(Codec):
    """One step of subspace iteration from the last step's factors: P = M Q, Q = M^T P, with Q and P orthogonalized."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], compression: Compression, place: Place) -> None:
        super().__init__(sum(map(prod, shapes)))
        starts = np.cumsum([0, *map(prod, shapes)]).tolist()
        found = [
            (start, factors) for start, s in zip(starts, shapes, strict=False) if (factors := compression.factors(s))
        ]
        self._ranks = np.float32(place.ranks)
        self.residual = np.zeros_like(self.gradient) if compression.feeds_back else None
        self._p = np.zeros(sum(f.rows * f.rank for _, f in found), np.float32)
        self._q = initial_factors([(f.columns, f.rank) for _, f in found], place.seed)
        self._matrices = []
        in_factors = np.zeros(len(self.gradient), np.bool_)
        p_start = q_start = 0
        for start, (rows, columns, rank) in found:
            end, p_end, q_end = start + rows * columns, p_start + rows * rank, q_start + columns * rank
            in_factors[start:end] = True
            whole = self.gradient[start:end].reshape(rows, columns)
            p, q = self._p[p_start:p_end].reshape(rows, rank), self._q[q_start:q_end].reshape(columns, rank)
            self._matrices.append(_Matrix(whole, p, q))
            p_start, q_start = p_end, q_end
        self._others = np.flatnonzero(~in_factors)
        self._rest = np.zeros(len(self._others), np.float32)
        self.payloads = tuple(payload for payload in (self._rest, self._p, self._q) if len(payload))

    def encode(self, number: int, step: int) -> None:
        if number == 0:
            self._begin()
        if self.payloads[number] is self._q:
            for whole, p, q in self._matrices:
                p[:] = np.linalg.qr(p)[0]
                q[:] = whole.T @ p

    def _begin(self) -> None:
        if self.residual is not None:
            self.gradient += self.residual
            self.residual[:] = self.gradient
        self._rest[:] = self.gradient[self._others]
        for whole, p, q in self._matrices:
            q[:] = np.linalg.qr(q)[0]
            p[:] = whole @ q

    def decode(self, step: int) -> None:
        self.gradient[self._others] = self._rest
        for whole, p, q in self._matrices:
            whole[:] = p @ q.T
        if self.residual is not None:
            self.residual -= self.gradient / self._ranks


def codec(compression: Compression, shapes: Sequence[tuple[int, ...]], place: Place) -> Codec:
    """Give the codec of the gradients of tensors of some shapes."""
    elements = sum(map(prod, shapes))
    found: Codec
    match compression.kind:
        case "none":
            found = Codec(elements)
        case "fp16":
            found = _Fp16(elements)
        case "bf16":
            found = _Bf16(elements)
        case "int8":
            found = _Int8(elements, place)
        case "top_k":
            found = _TopK(elements, compression, place)
        case "random_k":
            found = _RandomK(elements, compression, place)
        case "power_sgd":
            found = _PowerSgd(shapes, compression, place)
    return found


class Message:
    """Gradients that one rank sends to another, all rounds at once."""

    def __init__(self, own: Codec) -> None:
        self._codec = own
        self._parts = own.payloads if len(own.payloads) > 1 else ()
        size_bytes = sum(part.nbytes for part in self._parts)
        self.contents: Payload = np.zeros(size_bytes, np.uint8) if self._parts else own.payloads[0]
        """What travels."""

    @property
    def gradient(self) -> Floats:
        """The gradients: to be encoded, or decoded."""
        return self._codec.gradient

    def encode(self, step: int) -> None:
        """Fill the contents."""
        for number in range(len(self._codec.payloads)):
            self._codec.encode(number, step)
        if self._parts:
            self.contents[:] = np.concatenate([part.view(np.uint8).ravel() for part in self._parts])

    def decode(self, step: int) -> None:
        """Turn the contents into gradients."""
        start = 0
        for part in self._parts:
            part.view(np.uint8).ravel()[:] = self.contents[start : start + part.nbytes]
            start += part.nbytes
        self._codec.decode(step)


def random_indices(elements: int, kept: int, seed: Sequence[int]) -> Labels:
    """Draw distinct indices, the same for the same seed."""
    return np.random.default_rng(seed).choice(elements, kept, replace=False, shuffle=False)


def initial_factors(shapes: Sequence[tuple[int, int]], seed: Sequence[int]) -> Floats:
    """Draw the factors that subspace iteration begins with, one after another, flat."""
    return np.random.default_rng(seed).standard_normal(sum(map(prod, shapes))).astype(np.float32)
