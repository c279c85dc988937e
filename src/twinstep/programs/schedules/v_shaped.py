"""Schedules in the shape of a V: a rank's chunk 0 is stage rank, its chunk 1 is stage 2 p - 1 - rank.

A microbatch goes down the ranks and up again: the last rank passes it on to itself, the first has the loss. Two ranks,
four microbatches, F0' in the second chunk, B as long as I and W, results passed on at once:

    ZB-V      rank 0  F0  F1  F2  F0' I0' W0' F1' I1' W1' F3  I0  W0  F2' I2' W2' I1  W1  F3' I3' W3' I2  W2  I3  W3
              rank 1   .  F0  F0' F1  F1' I0' W0' F2  I0  W0  F2' I1' W1' F3  I1  W1  F3' I2' W2' I2  I3' I3  W2  W3' W3

    DualPipeV rank 0  F0  F1  F2  F0' I0' W0' F1' F3  B1'---- F2' B0----- B2'---- F3'  .  B1----- B3'---- I2  W2  I3  W3
              rank 1   .  F0  F0' F1  F1' F2  B0'---- F2' B0----- F3  B1'---- F3' B1----- B2'---- B2----- I3' I3  W3' W3

DualPipe computes a forward pass and the backward pass of another microbatch as a pair, so that one computes while the
other communicates. A pair is two slots here, the first of them `with_next`. One device computes them one after the
other, as torch does; it sends the results of both after the second one.

**Bubble.** Take p ranks, m microbatches; F, I and W are the times of a chunk's passes, B = I + W. A rank's work is 2 m
(F + B). A step takes longer by

    ZB-V        (p - 1) F               for F = I = W, m >= 2 p - 1: no rank idles once it has begun
    DualPipeV   (p - 1) (F + I - W)     for W <= I <= F, each result passed on at once
                (p - 1) (2 F + I - W)   the same, a pair's results passed on together

The last is DeepSeek's (p - 1) (F&B + B - 3 W) if a pair takes its parts' time, F&B = F + B, and F = I. With other times
ranks wait longer: these orders are fixed, where Qi et al. search for one that suits the times.

**Activations** that a rank holds, each those of a microbatch in one chunk: 2 p with ZB-V, as much as 1F1B's p of both
chunks; 2 p + 1 with DualPipeV. For m >= 2 p.

Sources: Qi et al., "Zero bubble pipeline parallelism", 2023, section 6; DeepSeek-AI, "DeepSeek-V3 technical report",
2024, 3.2.1, and the table of github.com/deepseek-ai/DualPipe, whose PP is 2 p here. The orders are torch's.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

from twinstep.programs.schedules.slot import Direction, Slot


def zero_bubble_v(rank: int, ranks: int, microbatches: int) -> list[Slot]:
    """Order a rank's passes as ZB-V does.

    >>> " ".join(map(str, zero_bubble_v(rank=1, ranks=2, microbatches=3)))
    'F0 F0.1 F1 F1.1 I0.1 W0.1 F2 I0 W0 F2.1 I1.1 W1.1 I1 I2.1 I2 W1 W2.1 W2'
    """
    order = _Order()
    counted = max(microbatches, 2 * ranks - 1)  # fewer do not fill the V: the rest of its slots is left out
    order.add("F0", times=2 * (ranks - rank) - 1)
    order.add("F1 F0", times=rank)
    order.add("F1 I1 W1", times=ranks - rank)
    order.add("F0 I0 W0 F1 I1 W1", times=counted - 2 * ranks + rank + 1)
    order.add("I0 W0 F1 I1 W1", times=ranks - rank - 1)
    order.add("I0 I1", times=rank)
    order.add("I0 W0", times=ranks - rank)
    order.add("W1", times=rank)
    order.add("W0", times=rank)
    return [slot for slot in order.slots if slot.microbatch < microbatches]


def dual_pipe_v(rank: int, ranks: int, microbatches: int) -> list[Slot]:
    """Order a rank's passes as DualPipeV does, for at least 2 x ranks microbatches.

    >>> " ".join(map(str, dual_pipe_v(rank=1, ranks=2, microbatches=4)))
    'F0 F0.1 F1 F1.1 F2 B0.1 F2.1+ B0 F3+ B1.1 F3.1+ B1 B2.1 B2 I3.1 I3 W3.1 W3'
    """
    order = _Order()
    pairs = microbatches - 2 * ranks + rank + 1
    is_last = rank == ranks - 1
    order.add("F0", times=2 * (ranks - rank - 1))
    order.add("F0 F1", times=rank + 1)
    order.add("I1 W F1", times=ranks - rank - 1)
    order.add("F0 B1 F1+ B0", times=int(is_last))  # the first pair of the last rank is apart: that shortens the bubble
    order.add("F0+ B1 F1+ B0", times=pairs - is_last)
    order.add("B1 F1+ B0", times=ranks - rank - 1)
    for index in range(2 * (rank + 1)):
        order.add(f"{'B' if index <= rank else 'I'}{1 - index % 2}")
    order.add("W I0", times=ranks - rank - 1)
    order.add("W", times=rank + 1)
    return order.slots


class _Order:
    """A list of slots that grows: each pass takes the next microbatch of its chunk."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._begun = Counter[str]()
        self._waiting: list[Slot] = []

    def add(self, passes: str, times: int = 1) -> None:
        """Add passes: `F0`, `B1` with their chunk, `F1+` with the next, `W` for the oldest that is left."""
        for name in passes.split() * times:
            self.slots.append(self._weights(name) if name[0] == "W" else self._pass(name))

    def _pass(self, name: str) -> Slot:
        key = ("F" if name[0] == "F" else "B") + name[1]
        slot = Slot(cast(Direction, name[0]), self._begun[key], int(name[1]), name.endswith("+"))
        self._begun[key] += 1
        if slot.direction == "I":
            self._waiting.append(slot._replace(direction="W"))
        return slot

    def _weights(self, name: str) -> Slot:
        oldest = next(slot for slot in self._waiting if name in ("W", f"W{slot.chunk}"))
        self._waiting.remove(oldest)
        return oldest
