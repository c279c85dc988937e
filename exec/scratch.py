"""Scratch: the private folder of a run, gone when the run is.

Whoever starts a run removes its folder at the end. Where it is killed, the keeper of the crew does (`crew.py`); where
both are killed at once, the next run does: a folder that nobody has locked is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "twinstep-"
_LOCK = "in-use"
_YOUNG_S = 60.0
"""A folder may be this young and not locked yet."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that only this user may read, and remove it afterwards."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _YOUNG_S and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Tell whether nobody holds the lock of a run's folder. Raises OSError where it is no such folder."""
    with (folder / _LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
