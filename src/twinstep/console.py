"""What commands share: the options, standard output and error, the progress bar, the output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from twinstep.errors import RunError
from twinstep.report.files import make_folder
from twinstep.workflow import Progress


class _Results(Console):
    """Standard output; where its reader goes away, the command has failed."""

    def on_broken_pipe(self) -> None:
        """Raise RunError, rather than exit with 1, which says `outside`."""
        raise RunError("standard output was closed")


results = _Results(emoji=False)
messages = Console(stderr=True, emoji=False)

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A path, or a shipped scenario's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. partition.data=4. Repeatable."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Output folder; default runs/<scenario>-<time>.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary alone, as JSON, on standard output.")]
ProfileOption = Annotated[
    Path | None, typer.Option("--profile", metavar="FILE", help="Another machine's profile, from `calibrate --out`.")
]
ReportOption = Annotated[bool, typer.Option("--report", help="Draw report.html, too.")]


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a progress bar on a terminal, from the first word on; nothing elsewhere."""
    if not messages.is_terminal:
        yield lambda share: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=messages, transient=True
    ) as bar:
        task = bar.add_task(title, total=1.0, visible=False)
        yield lambda share: bar.update(task, completed=share, visible=True)


def output_folder(name: str, out: Path | None) -> Path:
    """Make the output folder of a command on a scenario, so that what cannot be written is known before the run."""
    folder = out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    make_folder(folder)
    return folder
