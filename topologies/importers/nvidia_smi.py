"""What `nvidia-smi topo -m` prints: one host, its GPUs, and the kind of way between each pair.

Only the matrix of the GPUs is read; rows and columns of NICs, CPU affinities and the legend are passed over.

The text gives kinds, not bandwidths. Assumed are

- NVLink: 25 GB/s a link and direction, which is NVLink 2 to 4 by NVIDIA's data sheets of V100 (6 links, 300 GB/s
  both ways together), A100 (12, 600 GB/s) and H100 (18, 900 GB/s). Blackwell's has twice that, Pascal's 20 GB/s.
- PCIe 4.0 x16 as NCCL reckons it, 24 of the raw 32 GB/s, wherever the way stays within a NUMA node.
- 10 GB/s between sockets: NCCL's number for Intel processors from Skylake to Ice Lake; newer ones have more.
- latencies: NCCL's time of a step from GPU to GPU, halved where a switch lies between.

Where all pairs are joined by equally many NVLinks, at least six, these lead to an NVSwitch: no GPU that hangs on
one has fewer. Else each NV# is a direct link, as between the four GPUs of an HGX A100 with NV4 everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

from twinstep.errors import InputError
from twinstep.strict_yaml import did_you_mean
from twinstep.topologies.importers.gpu_host import MOST_GPUS, Gpu, MeetingPoint, Wire, graph_of
from twinstep.topologies.importers.nccl_numbers import NVLINK_STEP_S, intel_bytes_per_s, pcie_bytes_per_s
from twinstep.topologies.specification import Graph
from twinstep.yaml_composer import cut

NVLINK_BYTES_PER_S = 25e9
"""Raw bandwidth of one NVLink 2, 3 or 4 in each direction."""
PCIE_BYTES_PER_S = pcie_bytes_per_s("16.0 GT/s PCIe", 16) or 0.0
"""PCIe 4.0 x16 in each direction, as NCCL reckons it."""
SOCKETS_BYTES_PER_S = intel_bytes_per_s(6, 0x6A)
"""Between the sockets of Ice Lake processors, which have PCIe 4.0, as NCCL reckons it."""
FEWEST_SWITCHED_NVLINKS = 6
"""NVLinks of a GPU on an NVSwitch, at least: V100 has 6, A800 and H800 8, A100 12, H100 18."""

_HOST = "system0"
_LEVELS = {"PIX": "bridge", "PXB": "bridges", "PHB": "host-bridge", "NODE": "numa", "SYS": "smp"}
"""The kinds of way over PCIe, from near to far, and what the switch where it turns is called."""
_ALSO = {"SOC": "SYS"}
"""Older words for the same: drivers before 2017 wrote SOC."""
_MOST_COLUMNS = 1024
_ESCAPE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
_GPU = re.compile("GPU[0-9]{1,4}")
_NVLINKS = re.compile("NV([1-9][0-9]?)")
_REMEDY = "save all that `nvidia-smi topo -m` prints, for example with `nvidia-smi topo -m > host.topo`"

_Pair = tuple[int, int]


def read(text: str, place: str) -> Graph:
    """Make the specification of the host that `nvidia-smi topo -m` printed `text` on.

    GPUs are `device: cuda`, ranks in their order. `place` is what messages call the file.
    Raises InputError naming line, cell and remedy.
    """
    names, relations = _matrix(text, place)
    nvlinks = {pair: int(found[1]) for pair, word in relations.items() if (found := _NVLINKS.fullmatch(word))}
    paths = {pair: word for pair, word in relations.items() if pair not in nvlinks}
    places = [_components(len(names), paths, level) for level in _LEVELS]
    _check_tree(names, paths, places, place)
    gpus = [
        Gpu(f"{_HOST}/{name.lower()}", _HOST, PCIE_BYTES_PER_S, _meeting_points([level[index] for level in places]))
        for index, name in enumerate(names)
    ]
    return graph_of(gpus, _nvlink_wires(gpus, nvlinks), (), {}, place)


def _nvlink_wires(gpus: Sequence[Gpu], nvlinks: Mapping[_Pair, int]) -> list[Wire]:
    pairs, counts = len(gpus) * (len(gpus) - 1) // 2, set(nvlinks.values())
    if len(gpus) > 2 and len(nvlinks) == pairs and len(counts) == 1 and min(counts) >= FEWEST_SWITCHED_NVLINKS:
        bandwidth = counts.pop() * NVLINK_BYTES_PER_S
        return [Wire(gpu.name, "NVSwitch0", bandwidth, NVLINK_STEP_S / 2) for gpu in gpus]
    return [
        Wire(gpus[one].name, gpus[other].name, count * NVLINK_BYTES_PER_S, NVLINK_STEP_S)
        for (one, other), count in nvlinks.items()
    ]


def _meeting_points(components: Sequence[int]) -> tuple[MeetingPoint, ...]:
    return tuple(
        MeetingPoint(
            f"{noun}{number}", min(PCIE_BYTES_PER_S, SOCKETS_BYTES_PER_S) if noun == "smp" else PCIE_BYTES_PER_S
        )
        for noun, number in zip(_LEVELS.values(), components, strict=True)
    )


def _components(count: int, paths: Mapping[_Pair, str], level: str) -> list[int]:
    """Number the groups of GPUs whose ways to each other are of a level or nearer; give each GPU's group."""
    near = list(_LEVELS)[: list(_LEVELS).index(level) + 1]
    group = list(range(count))
    for (one, other), word in paths.items():
        if word in near and group[one] != group[other]:
            kept, gone = group[one], group[other]
            group = [kept if number == gone else number for number in group]
    order = list(dict.fromkeys(group))
    return [order.index(number) for number in group]


def _check_tree(names: Sequence[str], paths: Mapping[_Pair, str], places: Sequence[Sequence[int]], place: str) -> None:
    """Refuse a pair that is farther apart than the ways of both to a third GPU allow."""
    for (one, other), word in paths.items():
        nearest = next(level for level, group in zip(_LEVELS, places, strict=True) if group[one] == group[other])
        if nearest != word:
            problem = f"{names[one]} and {names[other]} are {word} apart, but over other GPUs no more than {nearest}"
            raise InputError(problem, remedy=f"correct the cell: PCIe is a tree; or {_REMEDY}", place=place)


def _matrix(text: str, place: str) -> tuple[list[str], dict[_Pair, str]]:
    """Give the GPUs' names, and the relation of each pair by their positions, the smaller first."""
    lines = [line.split() for line in _ESCAPE.sub("", text).splitlines()]
    top = next((index for index, words in enumerate(lines) if words and _GPU.fullmatch(words[0])), None)
    if top is None:
        raise InputError("holds no matrix: no line begins with GPU0", remedy=_REMEDY, place=place)
    header = lines[top]
    columns = header[: header.index("CPU")] if "CPU" in header else header
    names = [word for word in columns if _GPU.fullmatch(word)]
    if len(names) != len(set(names)) or len(names) > MOST_GPUS or len(columns) > _MOST_COLUMNS:
        problem = f"the first row names a GPU twice, more than {MOST_GPUS} GPUs or more than {_MOST_COLUMNS} columns"
        raise InputError(problem, remedy=_REMEDY, place=place, line=top + 1)
    rows = _rows(lines, top + 1, columns, place)
    for name in names:
        if name not in rows:
            problem = f"has no row for {name}: it is cut off, or the matrix has an empty line"
            raise InputError(problem, remedy=_REMEDY, place=place, line=top + 1)
    return names, {
        (one, other): _relation(rows, names[one], names[other], place)
        for one, other in combinations(range(len(names)), 2)
    }


def _rows(lines: Sequence[Sequence[str]], top: int, columns: Sequence[str], place: str) -> dict[str, dict[str, str]]:
    """Give the cells of the GPUs' rows by the column's name; the matrix ends at an empty line."""
    rows: dict[str, dict[str, str]] = {}
    for number, words in enumerate(lines[top:], top + 1):
        if not words:
            break
        name, *cells = words
        if not _GPU.fullmatch(name):
            continue
        if name not in columns:
            raise InputError(f"{name} has a row, but no column", remedy=_REMEDY, place=place, line=number)
        if name in rows or len(cells) < len(columns):
            problem = f"{name} has a second row" if name in rows else f"the row of {name} has {len(cells)} cells"
            raise InputError(problem, remedy=f"{_REMEDY}: {len(columns)} cells a row", place=place, line=number)
        rows[name] = dict(zip(columns, cells, strict=False))
        for column, word in rows[name].items():
            _check_word(name, column, word, place, number)
    return rows


def _check_word(row: str, column: str, word: str, place: str, line: int) -> None:
    known = ["X"] if row == column else [*_LEVELS, *_ALSO]
    if _GPU.fullmatch(column) and word not in known and (row == column or not _NVLINKS.fullmatch(word)):
        problem = f"{row} to {column} is {cut(repr(word))}"
        raise InputError(problem, remedy=did_you_mean(word, [*known, "NV1"]), place=place, line=line)


def _relation(rows: Mapping[str, Mapping[str, str]], one: str, other: str, place: str) -> str:
    forth, back = rows[one][other], rows[other][one]
    if forth != back:
        problem = f"{one} to {other} is {forth}, but {other} to {one} is {back}"
        raise InputError(problem, remedy=f"make the two equal, or {_REMEDY}", place=place)
    return _ALSO.get(forth, forth)
