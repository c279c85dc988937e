"""Contents: what messages and sums carry, for programs that really train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinstep import bfloat16
from twinstep.effects import Collective, Communication, Contents, Transfer


def deliver(effects: Sequence[Communication]) -> None:
    """Do to the arrays of all who joined a communication, in the order of ranks, what it does.

    A message is copied; an all-gather gives each rank everybody's row; an all-reduce sums over the ranks.
    """
    arrays = [effect.contents for effect in effects if effect.contents is not None]
    first = effects[0]
    if isinstance(first, Collective):
        if first.kind == "all_gather":
            _fill(arrays, np.stack([array[position] for position, array in enumerate(arrays)]))
        else:
            _fill(arrays, bfloat16.total(arrays) if first.dtype == "bfloat16" else np.sum(arrays, axis=0))
        return
    sent = [effect.contents for effect in effects if isinstance(effect, Transfer) and effect.kind == "send"]
    if sent[0] is not None:
        _fill([array for array in arrays if array is not sent[0]], sent[0])


def _fill(arrays: Sequence[Contents], values: Contents) -> None:
    for array in arrays:
        array[:] = values
