"""The output folder of a command. Each file appears whole or not at all, however the command ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from twinstep.errors import InputError
from twinstep.report.contents import Contents
from twinstep.report.summary import summary_text
from twinstep.report.trace import chrome_trace
from twinstep.timeline import Timeline
from twinstep.timeline_lines import to_json_lines

_LINES_AT_ONCE = 10_000
_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder with --out",
    errno.EDQUOT: "free some of your quota, or choose another folder with --out",
    errno.EACCES: "choose a folder that you may write to with --out",
    errno.EPERM: "choose a folder that you may write to with --out",
    errno.EROFS: "choose a folder that you may write to with --out",
    errno.EEXIST: "a file is in the way: choose another folder with --out",
    errno.ENOTDIR: "a file is in the way: choose another folder with --out",
    errno.EISDIR: "a folder is in the way: choose another folder with --out",
}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or a text as UTF-8, beside `path`, bring it to the disk, and rename it into place.

    A reader sees the old file or the new one. What UTF-8 cannot hold is written as an escape.
    Raises InputError where the file system refuses.
    """
    with _appearing_whole(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def _appearing_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path`; bring it to the disk, and rename it into place, when all is written."""
    partial = path.with_name(f".{path.name[:64]}.{secrets.token_hex(4)}.partial")
    try:
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _refused(path, error) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing. Raises InputError where the file system refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error


def write_outputs(folder: Path, contents: Contents, *, html: bool) -> None:
    """Write plan.yaml, predicted.jsonl, measured.jsonl, trace.json, report.html and summary.json.

    A side that was not run has no file. The summary comes last: where it is, the others are there.
    The folder is made where it is missing. Raises InputError where the file system refuses.
    """
    make_folder(folder)
    write_atomically(folder / "plan.yaml", contents.plan_yaml)
    if contents.prediction:
        _write_lines(folder / "predicted.jsonl", contents.prediction.timeline)
    if contents.measurement:
        _write_lines(folder / "measured.jsonl", contents.measurement.timeline)
    write_atomically(folder / "trace.json", json.dumps(chrome_trace(contents), separators=(",", ":")))
    if html:
        from twinstep.report.html import render_html

        write_atomically(folder / "report.html", render_html(contents))
    write_atomically(folder / "summary.json", summary_text(contents))


def _write_lines(path: Path, timeline: Timeline) -> None:
    """Write a timeline some lines at a time: a long one is larger as a text than in memory."""
    lines = to_json_lines(timeline)
    with _appearing_whole(path) as file:
        while some := list(islice(lines, _LINES_AT_ONCE)):
            file.write("\n".join([*some, ""]).encode())


def _refused(path: Path, error: OSError) -> InputError:
    remedy = _REMEDIES.get(error.errno or 0, "choose another folder with --out")
    return InputError(f"cannot be written: {error.strerror or error}", place=str(path), remedy=remedy)
