"""Names of process groups: those of the plan's groups, found by their ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch.distributed as dist

from twinstep.programs import Groups
from twinstep.programs.mesh import DATA


def group_names(groups: Mapping[str, Groups], rank: int) -> Callable[[dist.ProcessGroup, str], str]:
    """Give a function that names a process group of a rank, for a kind of operation.

    Where ranks are in two groups together, messages and shifts are those of the mesh's dimension, all else is the other
    group's: a pipeline of two is its first and last rank, too; ranks that share samples' tokens alone hold the same
    parameters. A group that the plan does not know is named after its ranks.
    """
    names: dict[tuple[int, ...], list[str]] = {}
    for kind in sorted(groups, key=lambda kind: kind == DATA):  # which joins several dimensions: after each of them
        row = groups[kind].ranks[groups[kind].row_of(rank)] if rank in groups[kind].ranks else ()
        names.setdefault(tuple(sorted(map(int, row))), []).append(groups[kind].name_of(rank) if len(row) else "")

    @cache
    def name_of(group: dist.ProcessGroup, operation: str) -> str:
        ranks = tuple(sorted(dist.get_process_group_ranks(group)))
        known = names.get(ranks)
        if not known:
            return f"ranks {'+'.join(map(str, ranks))}"
        return known[0] if operation in ("send", "recv", "all_to_all") else known[-1]

    return name_of
