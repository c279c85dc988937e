"""Schedules that go round: a rank's chunk c is stage c x p + rank, and backward passes follow forward ones in turn.

Three stages, four microbatches; `F1` is microbatch 1's forward pass, a dot an idle slot:

    GPipe    stage 0   F0 F1 F2 F3  .  .  .  .  B0 B1 B2 B3
             stage 1    . F0 F1 F2 F3  .  .  B0 B1 B2 B3
             stage 2    .  . F0 F1 F2 F3 B0 B1 B2 B3

    1F1B     stage 0   F0 F1 F2  .  . B0 F3 B1  . B2  . B3
             stage 1    . F0 F1  . B0 F2 B1 F3 B2  . B3
             stage 2    .  . F0 B0 F1 B1 F2 B2 F3 B3

(backward passes drawn as long as forward ones). Two ranks with two chunks each, F0' in the second, whose passes are
half as long:

    interleaved   rank 0   F0  F1  F0' F1' F2  B0' F3  B1' F2' B0  F3' B1   .  B2'  .  B3' B2  B3
                  rank 1    .  F0  F1  F0' B0' F1' B1' F2  B0  F3  B1  F2' B2' F3' B3' B2  B3

Three stages whose gradients of inputs (I) are apart from those of weights (W), for which nobody waits:

    zero bubble   stage 0   F0 F1 F2  .  . I0 W0 F3 I1 W1 I2 W2 I3 W3
                  stage 1    . F0 F1  . I0 F2 I1 W0 F3 I2 W1 I3 W2 W3
                  stage 2    .  . F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3

**Bubble.** Take p ranks, v chunks a rank, m >= p microbatches; F, I and W are the times of a chunk's passes, B = I + W.
A rank's work is v m (F + B). A step takes longer: the first microbatch goes p - 1 passes down before the last rank
begins, and the last one's gradients go p - 1 passes up while the ranks below are done.

    GPipe, 1F1B, interleaved   (p - 1) (F + B), which is (p - 1) / (v m + p - 1) of the step
    (interleaved) zero bubble  (p - 1) max(F + I - W, F, I)

With the halves apart only I is on the way up, and rank s fills the end with the s passes W that it still has: the
bubble is (p - 1) (F + I - W) where W is no longer than F or I. The other terms are bounds, as the last rank does not
begin before (p - 1) F, and the last gradients go up in (p - 1) I. With fewer microbatches than ranks, the interleaved
schedule waits for each further chunk, too: (p - 1 + (v - 1) (p - m)) (F + B).

**Activations** that rank s holds, each those of a microbatch in one chunk, where a round has r microbatches (p, if p
divides m) and m >= 2 p:

    GPipe m    1F1B p - s    interleaved (v - 1) r + 2 (p - 1 - s) + 1
    zero bubble p            interleaved zero bubble (v - 1) r + p, s of them (in both) between I and W

So zero bubble needs no more than 1F1B's stage 0, and on any stage no more than 1F1B if I frees what it used.

Sources: Huang et al., "GPipe", 2019; Narayanan et al., "Memory-efficient pipeline-parallel DNN training", 2021;
Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM", 2021, 2.2; Qi et
al., "Zero bubble pipeline parallelism", 2023, 2.1 (ZB-H1). Rounds of other sizes than p, and zero bubble with chunks:
torch.distributed.pipelining.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from twinstep.programs.schedules.slot import Direction, Slot


def gpipe(microbatches: int) -> list[Slot]:
    """Order the passes of any stage: forward in order, then backward in order.

    >>> " ".join(map(str, gpipe(3)))
    'F0 F1 F2 B0 B1 B2'
    """
    return _passes("F", microbatches) + _passes("B", microbatches)


def one_forward_one_backward(stage: int, stages: int, microbatches: int) -> list[Slot]:
    """Order the passes of a stage: as many forward passes as stages follow it, then one of each in turn.

    >>> " ".join(map(str, one_forward_one_backward(stage=1, stages=3, microbatches=4)))
    'F0 F1 B0 F2 B1 F3 B2 B3'
    """
    return _in_turn(_passes("F", microbatches), _passes("B", microbatches), stages - 1 - stage)


def zero_bubble(stage: int, stages: int, microbatches: int) -> list[Slot]:
    """Order the passes of a stage as 1F1B, gradients of weights as many microbatches late as stages are before it.

    >>> " ".join(map(str, zero_bubble(stage=1, stages=3, microbatches=4)))
    'F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3'
    """
    ordered = _in_turn(_passes("F", microbatches), _passes("I", microbatches), stages - 1 - stage)
    return _with_weights(ordered, delay=stage)


def interleaved_one_forward_one_backward(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Slot]:
    """Order a rank's passes as 1F1B does, a round of microbatches through one chunk after another.

    >>> " ".join(map(str, interleaved_one_forward_one_backward(rank=1, ranks=2, microbatches=2, chunks=2)))
    'F0 F1 F0.1 B0.1 F1.1 B1.1 B0 B1'
    """
    forward, backward = _rounds("F", ranks, microbatches, chunks), _rounds("B", ranks, microbatches, chunks)
    return _in_turn(forward, backward, _other_chunks(ranks, microbatches, chunks) + 2 * (ranks - 1 - rank))


def interleaved_zero_bubble(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Slot]:
    """Order a rank's passes in rounds as well, gradients of weights as many passes late as ranks are before it.

    >>> " ".join(map(str, interleaved_zero_bubble(rank=1, ranks=2, microbatches=2, chunks=2)))
    'F0 F1 F0.1 I0.1 F1.1 I1.1 W0.1 I0 W1.1 I1 W0 W1'
    """
    forward, backward = _rounds("F", ranks, microbatches, chunks), _rounds("I", ranks, microbatches, chunks)
    ordered = _in_turn(forward, backward, _other_chunks(ranks, microbatches, chunks) + ranks - 1 - rank)
    return _with_weights(ordered, delay=rank)


def _passes(direction: Direction, microbatches: int) -> list[Slot]:
    return [Slot(direction, microbatch) for microbatch in range(microbatches)]


def _rounds(direction: Direction, ranks: int, microbatches: int, chunks: int) -> list[Slot]:
    """List passes round by round, chunk by chunk; backward passes begin with the last chunk."""
    size = _round(ranks, microbatches)
    order: Iterable[int] = range(chunks) if direction == "F" else range(chunks - 1, -1, -1)
    return [
        Slot(direction, microbatch, chunk)
        for first in range(0, microbatches, size)
        for chunk in order
        for microbatch in range(first, first + size)
    ]


def _round(ranks: int, microbatches: int) -> int:
    """Give the microbatches of a round: as few as there are ranks, or a few more so that rounds are equal."""
    return microbatches // max(1, microbatches // ranks)


def _other_chunks(ranks: int, microbatches: int, chunks: int) -> int:
    """Count the forward passes of a round through all chunks but the last."""
    return (chunks - 1) * _round(ranks, microbatches)


def _in_turn(forward: list[Slot], backward: list[Slot], ahead: int) -> list[Slot]:
    """Begin with some forward passes, then go on with one forward and one backward pass in turn."""
    slots = forward[:ahead]
    for index, slot in enumerate(backward):
        slots += [*forward[ahead + index : ahead + index + 1], slot]
    return slots


def _with_weights(slots: list[Slot], delay: int) -> list[Slot]:
    """Insert the gradients of weights, each after as many more gradients of inputs as the delay."""
    found, waiting = list[Slot](), deque[Slot]()
    for slot in slots:
        found.append(slot)
        if slot.direction == "I":
            waiting.append(slot._replace(direction="W"))
            if len(waiting) > delay:
                found.append(waiting.popleft())
    return [*found, *waiting]
