"""Folders: which files a scenario may name.

Those in or below its own folder; nothing else, so that a scenario from elsewhere cannot read the rest of the disk.
"""

from __future__ import annotations

from pathlib import Path

from twinstep.errors import InputError


def inside(name: str, folder: Path) -> Path:
    """Give the file that a scenario in `folder` means. Raises InputError where it lies outside, or leads nowhere."""
    root = folder.resolve()
    try:
        found = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a NUL
        raise InputError(f"{name!r} leads nowhere: {error}", remedy="check the path") from error
    if Path(name).is_absolute() or not found.is_relative_to(root):
        remedy = f"put the file in or below {str(folder)!r}, and name it relative to that folder"
        raise InputError(f"{name!r} lies outside the scenario's folder", remedy=remedy)
    return found
