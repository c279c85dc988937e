"""Calibration: measures what the emulation of a cluster costs this machine, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

from twinstep.errors import InputError, RunError
from twinstep.exec.crew import die_with_parent, say
from twinstep.exec.emulated.awake import keep_cores_awake
from twinstep.exec.emulated.namespaces import become_able


def main(folder: Path) -> int:
    """Measure, and write emulation.json into `folder`; give 0, or 3 where something failed."""
    try:
        become_able(partial(die_with_parent, os.getppid(), signal.SIGTERM))
        from twinstep.exec.emulated.costs import emulation_costs  # libraries start threads, so not before

        keep_cores_awake()
        costs = emulation_costs(folder)
    except (InputError, RunError) as error:
        say(event="failed", message=str(error))
        return 3
    (folder / "emulation.json").write_text(json.dumps(costs))
    say(event="done")
    return 0
