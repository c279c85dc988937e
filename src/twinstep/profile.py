"""Profile: what was measured on one machine, as a JSON file that predictions draw on.

`twinstep calibrate` writes one; a prediction may be given that of any machine. Every number in it is a measurement
of a kernel, a collective or an overhead on its own: no training step is ever part of it.
"""

from __future__ import annotations

import json
import os
import platform
import stat
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from platformdirs import user_cache_path
from pydantic import AfterValidator, Field, ValidationError, model_validator

from twinstep.errors import InputError
from twinstep.kernels import KERNEL_NAMES, Kernel
from twinstep.strict_model import StrictModel

FORMAT = 4
_LARGEST_FILE_BYTES = 16 * 2**20


def _increasing(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if sizes[0] < 1 or any(low >= high for low, high in pairwise(sizes)):
        raise ValueError("sizes must be positive and increase")
    return sizes


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("the time has no zone")
    return text


PerSecond = Annotated[float, Field(gt=0, le=1e24, strict=False)]
Seconds = Annotated[float, Field(gt=0, le=1e6, strict=False)]
Overhead = Annotated[float, Field(ge=0, le=1, strict=False)]
Overload = Annotated[float, Field(ge=0, le=1e6, strict=False)]
Grid = Annotated[tuple[int, ...], Field(min_length=1, strict=False), AfterValidator(_increasing)]
Rows = Annotated[tuple[Annotated[tuple[Seconds, ...], Field(strict=False)], ...], Field(strict=False)]


class Machine(StrictModel):
    """What a profile was measured on."""

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    memory_bytes: Annotated[int, Field(ge=1)]
    kernel: str

    def is_like(self, other: Machine) -> bool:
        """Tell whether a profile of one holds for the other: same processor, cores and kernel."""
        return (self.cpu, self.cores, self.kernel) == (other.cpu, other.cores, other.kernel)


class KernelCurve(StrictModel):
    """Time of one kernel over a grid of shapes, in row-major order of the grid."""

    grid: Annotated[tuple[Grid, ...], Field(strict=False)]
    """The sizes that were measured, an axis each; no axis for a kernel without a shape."""
    idle_s: Annotated[tuple[Seconds, ...], Field(strict=False)]
    """Seconds while the other cores are idle."""
    busy_s: Annotated[tuple[Seconds, ...], Field(strict=False)]
    """Seconds while every core runs the same kernel."""

    @model_validator(mode="after")
    def _complete(self) -> KernelCurve:
        points = 1
        for axis in self.grid:
            points *= len(axis)
        if not points == len(self.idle_s) == len(self.busy_s):
            raise ValueError(f"{points} grid points, but {len(self.idle_s)} idle and {len(self.busy_s)} busy times")
        return self


class DeviceCurves(StrictModel):
    """A kind of device: its roofline and its kernels."""

    peak_flops_per_s: PerSecond
    bandwidth_bytes_per_s: PerSecond
    launch_s: Seconds
    """Time of the smallest kernel."""
    kernels: dict[str, KernelCurve]

    @model_validator(mode="after")
    def _known(self) -> DeviceCurves:
        for name, curve in self.kernels.items():
            if name not in KERNEL_NAMES or len(Kernel(name, ()).axes) != len(curve.grid):
                raise ValueError(f"there is no kernel {name!r} with {len(curve.grid)} axes")
        return self


class CollectiveTable(StrictModel):
    """Time of a collective among ranks of this machine, or of a message between two, by number of ranks and by size."""

    ranks: Grid
    sizes_bytes: Grid
    """Bytes of a rank's whole buffer."""
    elapsed_s: Rows
    """From the last rank's call until no rank waits any more: a row a number of ranks, a column a size."""
    shared_sizes_bytes: Grid
    """The columns of the two tables below."""
    paired_s: Rows
    """Until both of two collectives that are called at once are complete."""
    crowded_s: Rows
    """The elapsed time while every rank computes."""

    @model_validator(mode="after")
    def _complete(self) -> CollectiveTable:
        sizes, shared_sizes = len(self.sizes_bytes), len(self.shared_sizes_bytes)
        for rows, columns in ((self.elapsed_s, sizes), (self.paired_s, shared_sizes), (self.crowded_s, shared_sizes)):
            if len(rows) != len(self.ranks) or any(len(row) != columns for row in rows):
                raise ValueError("every table needs a row for each number of ranks and a column for each size")
        return self


class HostOverheads(StrictModel):
    """CPU seconds that the executor spends on an effect beyond the work itself."""

    compute_s: Overhead
    """Dispatching a `Compute` and recording its span."""
    launch_s: Overhead
    """Issuing a `Collective`."""
    wait_s: Overhead
    """A `Wait` for something that is already complete."""


class EmulationCosts(StrictModel):
    """What an emulated cluster costs this machine, measured on two small ones."""

    step_s: Seconds
    """From one message of a ring to the next, while cores are to spare, beyond what the ranks take of them."""
    step_cpu_s: Seconds
    """Core seconds of a rank for each of its messages, while none are."""
    piece_cpu_s: Overhead
    """Core seconds for each piece and each link that it crosses."""
    byte_cpu_s: Overhead
    """Core seconds for each byte from one rank to another, its links aside."""
    copy_s_per_byte: Overhead
    """Of a collective that copies its whole buffer on each rank, for each of the buffer's bytes."""
    opposed_rate: Annotated[float, Field(gt=0, le=1, strict=False)]
    """The fraction of its rate that a collective keeps beside one that goes around the ring in the other direction."""
    delays_links: bool
    """Whether links have their latency: the kernel has netem."""
    congestion: str
    """TCP's congestion control among the ranks."""


class Profile(StrictModel):
    """All measurements of one machine."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    created: Annotated[str, AfterValidator(_with_zone)]
    """ISO 8601, UTC."""
    machine: Machine
    versions: dict[str, str]
    devices: dict[str, DeviceCurves]
    """By kind: `cpu` (one core, one thread), `cuda`."""
    collectives: dict[str, dict[str, CollectiveTable]]
    """By library (`gloo`), then by kind (`all_reduce`, `send`)."""
    overheads: HostOverheads
    emulation: EmulationCosts | None = None
    """None where this machine could not emulate a cluster."""
    reference_s: Seconds | None = None
    """CPU time of the reference (`exec/reference.py`) while all cores are at it: of each process the mean, of these the
    median; None in profiles that are older than it."""
    other_load_cores: Overload
    """How many cores other processes kept busy during the calibration, on average."""

    @cached_property
    def age_days(self) -> float:
        """Days since it was measured."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds() / 86400

    @property
    def title(self) -> str:
        """Name the machine and the day, for reports."""
        return f"{self.machine.cpu}, {self.machine.cores} cores, measured {self.created[:16].replace('T', ' ')} UTC"


def this_machine() -> Machine:
    """Describe the machine that runs this."""
    cpu = platform.machine()
    for line in _read_lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return Machine(cpu=cpu, cores=cores, memory_bytes=pages, kernel=platform.release())


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def cached_path() -> Path:
    """Where this machine's profile is kept: the user's cache directory."""
    return user_cache_path("twinstep") / "profile.json"


def cached_profile() -> Profile | None:
    """Give this machine's profile; None where there is none, or where it is that of another machine or format."""
    path = cached_path()
    if not path.is_file():
        return None
    try:
        profile = read_profile(path)
    except InputError:
        return None
    return profile if profile.machine.is_like(this_machine()) else None


def read_profile(path: Path) -> Profile:
    """Read a profile. Raises InputError where the file is missing, too large, or no profile."""
    remedy = "give a file that `twinstep calibrate --out FILE` wrote"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError("the profile is not a regular file", place=str(path), remedy=remedy)
        if found.st_size > _LARGEST_FILE_BYTES:
            raise InputError("the profile is larger than 16 MiB", place=str(path), remedy=remedy)
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the profile: {error.strerror}", place=str(path), remedy=remedy) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"not a profile: {f'{where}: ' if where else ''}{first['msg']}", place=str(path), remedy=remedy
        ) from None


def to_json(profile: Profile) -> str:
    """Write a profile as JSON text."""
    return json.dumps(profile.model_dump(mode="json"), indent=1) + "\n"
