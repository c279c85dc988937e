"""Contents: what messages and sums carry, for programs that really train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinstep.effects import Collective, Contents, Transfer


def deliver(effects: Sequence[Collective | Transfer]) -> None:
    """Do to the arrays of all who joined a communication what it does: copy a message, or sum over the ranks."""
    arrays = [effect.contents for effect in effects if effect.contents is not None]
    if isinstance(effects[0], Collective):
        _fill(arrays, np.sum(arrays, axis=0))
        return
    sent = [effect.contents for effect in effects if isinstance(effect, Transfer) and effect.kind == "send"]
    if sent[0] is not None:
        _fill([array for array in arrays if array is not sent[0]], sent[0])


def _fill(arrays: Sequence[Contents], values: Contents) -> None:
    for array in arrays:
        array[:] = values
