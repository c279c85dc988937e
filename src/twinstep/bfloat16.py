"""bfloat16, which numpy lacks, as arrays of its bits: the upper half of a float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]

_NAN = np.uint16(0x7FC0)


def to_bits(values: Floats) -> Bits:
    """Round to the nearest, and of two that are equally near to the even one.

    >>> to_bits(np.array([1.0, 1.00390625, -2.0], np.float32)).tolist() == [0x3F80, 0x3F80, 0xC000]
    True
    """
    bits = values.view(np.uint32)
    upper = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), _NAN, upper)


def to_floats(bits: Bits) -> Floats:
    """Give the values, which float32 has exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def total(arrays: Sequence[Bits]) -> Bits:
    """Add arrays one by one, rounding each sum."""
    found = arrays[0]
    for array in arrays[1:]:
        found = to_bits(to_floats(found) + to_floats(array))
    return found
