"""What is timed of compression: the calls of `codecs`, on a grid of shapes. `kernel_benches` says what a bench is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from twinstep.exec.codecs import (
    add_bytes,
    add_pairs,
    chosen_at_random,
    orthogonalize,
    to_bytes,
    to_pairs,
    to_scale,
)

Grid = tuple[tuple[int, ...], ...]
Timed = dict[str, Callable[[], object]]

_SIZES = ((1024, 65536, 2**20, 2**22),)
_KEPT = ((4096, 65536, 2**20), (16, 256, 4096))
_MATRICES = ((16, 64, 256, 1024), (16, 64, 256, 1024), (1, 4, 16))
_FACTORS = ((64, 256, 1024), (1, 4, 16))


def _rounded(name: str, dtype: torch.dtype) -> Callable[..., Timed]:
    def bench(e: int) -> Timed:
        flat, sent = torch.rand(e), torch.zeros(e, dtype=dtype)
        return {f"{name}_encode": lambda: sent.copy_(flat), f"{name}_decode": lambda: flat.copy_(sent)}

    return bench


def _int8(e: int) -> Timed:
    flat, total = torch.rand(e) - 0.5, torch.zeros(e)
    scale, sent = torch.ones(2), torch.zeros(e, dtype=torch.uint8)
    return {
        "int8_range": lambda: to_scale(flat, scale),
        "int8_encode": lambda: to_bytes(flat, scale, sent),
        "int8_decode": lambda: add_bytes(sent, scale, total),
    }


def _top_k(e: int, k: int) -> Timed:
    flat, total, pairs = torch.rand(e) - 0.5, torch.zeros(e), torch.zeros(2 * k)
    return {
        "top_k_encode": lambda: to_pairs(flat, k, pairs),
        "top_k_decode": lambda: add_pairs(pairs, total),
    }


def _random_k(e: int, k: int) -> Timed:
    flat, total, sent = torch.rand(e), torch.zeros(e), torch.zeros(k)
    known = chosen_at_random(e, k, (0,), flat.device)

    def encode() -> None:
        chosen = chosen_at_random(e, k, (0,), flat.device)
        torch.mul(flat[chosen], 1.0, out=sent)

    def decode() -> None:
        total[known] = sent

    return {"random_k_encode": encode, "random_k_decode": decode}


def _power_sgd(m: int, k: int, r: int) -> Timed:
    whole, p, q = torch.rand(m, k), torch.rand(m, r), torch.rand(k, r)
    return {
        "power_sgd_project": lambda: torch.mm(whole, q, out=p),
        "power_sgd_expand": lambda: torch.mm(p, q.T, out=whole),
    }


def _orthogonalize(m: int, r: int) -> Timed:
    matrix = torch.rand(m, r)
    return {"orthogonalize": lambda: orthogonalize(matrix)}


def _residual(e: int) -> Timed:
    flat, residual = torch.rand(e), torch.rand(e)
    return {"residual_add": lambda: flat.add_(residual), "residual_copy": lambda: residual.copy_(flat)}


CODEC_BENCHES: tuple[tuple[Grid, Callable[..., Timed]], ...] = (
    (_SIZES, _rounded("fp16", torch.float16)),
    (_SIZES, _rounded("bf16", torch.bfloat16)),
    (_SIZES, _int8),
    (_KEPT, _top_k),
    (_KEPT, _random_k),
    (_MATRICES, _power_sgd),
    (_FACTORS, _orthogonalize),
    (_SIZES, _residual),
)
"""For each the grid, and how to make what is timed at a point of it."""
