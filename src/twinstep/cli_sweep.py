"""The command `sweep`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from twinstep.console import (
    JsonOption,
    OutOption,
    ProfileOption,
    ScenarioArgument,
    SetOption,
    messages,
    output_folder,
    progress_bar,
    results,
)
from twinstep.errors import InputError, RunError
from twinstep.report.sweep_files import sweep_text, write_sweep
from twinstep.report.sweep_terminal import show_sweep
from twinstep.scenario import load_sweep
from twinstep.sweep.run import SweepRun


def sweep(
    scenario: ScenarioArgument,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="KEY=V1,V2", help="Values of a key, instead of or besides the scenario's. Repeatable."
        ),
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    measure: Annotated[bool, typer.Option("--measure", help="Execute every point that can be executed, too.")] = False,
) -> None:
    """Predict a scenario for all combinations of some keys' values, and say where which of them is faster."""
    if measure and profile:
        problem = "--profile is another machine's, and --measure runs on this one"
        raise InputError(problem, remedy="leave one of the two out")
    file = load_sweep(scenario, overrides or (), vary or ())
    run = SweepRun(scenario, file, overrides or (), profile)
    folder = output_folder(file.name, out)
    with progress_bar(f"predicting {file.name}") as progress:
        swept = run.predict(progress)
    if measure:
        run.check_executable(swept)
        with progress_bar(f"measuring {file.name}") as progress:
            swept = run.measure(swept, progress)
    write_sweep(folder, swept)
    if as_json:
        results.out(sweep_text(swept), end="", highlight=False)
    else:
        show_sweep(swept, results)
        messages.print(f"wrote {escape(str(folder))}", soft_wrap=True)
    if failed := sum(point.failed for point in swept.points):
        raise RunError(f"{failed} of {len(swept.points)} points failed when they were executed")
