"""Units: the parameters that are gathered together, and the numbers by which their communications are called.

A unit is a block, or what is in no block of a stage: the root's. With L blocks in the whole model:

    0 the root's of the first stage, n + 1 that of block n, L + 1 the root's of the last stage
    L + 2 and on: the experts of these, where fewer ranks share them
"""

from __future__ import annotations

Unit = int | None
"""A block, or None for the root's."""


def unit_number(unit: Unit, blocks: int, *, begins: bool, of_experts: bool = False) -> int:
    """Give a unit's number; `begins` where it is of the first stage.

    >>> [unit_number(unit, 4, begins=True) for unit in (None, 0, 3)], unit_number(None, 4, begins=False)
    ([0, 1, 4], 5)
    """
    of_all = unit + 1 if unit is not None else 0 if begins else blocks + 1
    return of_all + (blocks + 2) * of_experts


def without_experts(number: int, blocks: int) -> tuple[int, bool]:
    """Give the number of the unit that experts belong to, and whether the number was of experts.

    >>> without_experts(unit_number(3, 4, begins=True, of_experts=True), 4)
    (4, True)
    """
    of_experts, of_all = divmod(number, blocks + 2)
    return of_all, bool(of_experts)
