"""Measure a plan, or this machine: start a supervisor, listen to it, read what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinstep.errors import RunError
from twinstep.exec.load import OtherLoad
from twinstep.exec.records import Records, memory_of, timeline_of
from twinstep.exec.scratch import scratch_folder
from twinstep.memory_use import MemoryUse
from twinstep.plan import Plan
from twinstep.profile import EmulationCosts, Profile, read_profile, to_json
from twinstep.scenario import plan_yaml
from twinstep.strict_model import StrictModel
from twinstep.timeline import Timeline

_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which libraries of linear algebra are told how many threads a rank has."""
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Without torch's warnings, as of memory that it had before it was profiled, unless the user asks for them."""
START_TIMEOUT_S = 120.0
"""How long the supervisor may take to import torch and say its first word."""
SILENCE_TIMEOUT_S = 30.0
"""How long it may say nothing after that; it reports several times a second."""
_MACHINE_SHARE = 0.95
"""What the machine itself takes of the time of a calibration; the rest is for emulated clusters."""
_EMULATION_CREWS = 7
"""How many crews measure what the emulation costs."""


class LinkReadings(StrictModel):
    """The counters of all links that were built, by their index in the topology."""

    times_s: tuple[float, ...]
    """When they were read."""
    busy_s: tuple[float, ...]
    """How long all cores together had been busy until each of these times."""
    cores: int
    """How many those are."""
    course: dict[int, tuple[int, ...]]
    """Bytes until each of these times."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run gave."""

    timeline: Timeline
    losses: tuple[float, ...]
    """The global loss of every step, warm-up steps included; empty where compute is emulated."""
    other_load_cores: float
    """How many cores other processes kept busy meanwhile, on average."""
    counters: LinkReadings | None
    """What crossed each link of an emulated cluster."""
    memory: Mapping[int, MemoryUse]
    """What each rank held, by rank; empty where there was nothing to measure."""


def measure(plan: Plan, profile: Profile | None, on_step: Callable[[int], None]) -> Measured:
    """Run a plan on this machine; `on_step` is told the last step that all ranks have begun.

    `profile` is needed where compute is emulated on a device that was calibrated. Raises RunError, which names the
    rank that failed first, where the run does not end well; no process is left behind in any case.
    """
    with scratch_folder() as folder:
        return measure_in(folder, plan, profile, on_step)


def measure_in(
    folder: Path,
    plan: Plan,
    profile: Profile | None,
    on_step: Callable[[int], None],
    *,
    supervisor: str | None = None,
) -> Measured:
    """Do as `measure` does, in an empty folder that is then left with all that the run wrote.

    It holds parameters.pt, what rank 0 has learnt, by name; nothing of it where compute is emulated.
    """
    (folder / "plan.yaml").write_text(plan_yaml(plan), encoding="utf-8")
    if profile is not None:
        (folder / "profile.json").write_text(to_json(profile))
    other_load = OtherLoad()
    own = "twinstep.exec.emulated.supervisor" if plan.is_on_emulated_cluster else "twinstep.exec.supervisor"
    _supervise(supervisor or own, folder, on_step)
    files = {rank: folder / f"records-{rank}.json" for rank in range(plan.ranks)}
    records = {rank: Records.from_json(file.read_text()) for rank, file in files.items() if file.is_file()}
    losses = next(iter(records.values())).losses
    links = folder / "links.json"
    counters = LinkReadings.model_validate_json(links.read_text()) if links.is_file() else None
    return Measured(timeline_of(plan, records), losses, other_load.cores(), counters, memory_of(records))


def calibrate(on_share: Callable[[float], None]) -> Profile:
    """Measure this machine; `on_share` is told the share that is done, 0 to 1. Raises RunError where that fails."""
    with scratch_folder() as folder:
        _supervise("twinstep.exec.calibration", folder, lambda hundredths: on_share(hundredths / 100 * _MACHINE_SHARE))
        profile = read_profile(folder / "profile.json")
    return with_emulation(profile, lambda share: on_share(_MACHINE_SHARE + share * (1 - _MACHINE_SHARE)))


def with_emulation(profile: Profile, on_share: Callable[[float], None]) -> Profile:
    """Add what an emulated cluster costs this machine; nothing, with a message, where it can make none."""
    with scratch_folder() as folder:
        try:
            _supervise("twinstep.exec.emulated.calibration", folder, lambda crew: on_share(crew / _EMULATION_CREWS))
        except RunError as error:
            print(f"No emulated clusters on this machine: {error}", file=sys.stderr)
            return profile
        costs = EmulationCosts.model_validate_json((folder / "emulation.json").read_text())
    return profile.model_copy(update={"emulation": costs})


def _supervise(module: str, folder: Path, on_step: Callable[[int], None]) -> None:
    """Run a module that keeps a crew, and wait for its last word.

    Raises RunError where that is not `done`. Whatever happens, the whole process group is gone afterwards.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "twinstep.exec.crew", module, str(folder), str(os.getpid())],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=_QUIET | os.environ | dict.fromkeys(_THREAD_COUNTS, "1"),
    )
    try:
        for message in _messages(process):
            if message["event"] == "progress":
                on_step(message["step"])
            elif message["event"] == "failed":
                raise RunError(message["message"])
            elif message["event"] == "done":
                return
        raise RunError(f"the supervisor ended without a word: {_ending(process)}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Give the supervisor's messages until it closes its output. Raises RunError after too long a silence."""
    assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
    descriptor = process.stdout.fileno()
    buffer = b""
    patience_s = START_TIMEOUT_S
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        deadline_s = time.monotonic() + patience_s
        while True:
            if not selector.select(max(0.0, deadline_s - time.monotonic())):
                raise RunError(f"the supervisor has said nothing for {patience_s:g} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.startswith(b"{"))
            patience_s = SILENCE_TIMEOUT_S
            deadline_s = time.monotonic() + patience_s


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "it closed its output but runs on"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
