"""The command line: results on standard output, progress and messages on standard error.

Exit codes: 0 done (for `compare`: within the tolerance), 1 compared and outside, 2 bad input, 3 the run failed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twinstep import workflow
from twinstep.cautions import cautions
from twinstep.check import plan_lines
from twinstep.cli_sweep import sweep
from twinstep.console import (
    JsonOption,
    OutOption,
    ProfileOption,
    ReportOption,
    ScenarioArgument,
    SetOption,
    messages,
    output_folder,
    progress_bar,
    results,
)
from twinstep.errors import EndedError, InputError, RunError
from twinstep.garbage import paused_garbage_collection
from twinstep.memory import check_memory
from twinstep.profile import Profile, cached_path, cached_profile
from twinstep.report.contents import Contents
from twinstep.report.files import write_atomically, write_outputs
from twinstep.report.summary import summary_text
from twinstep.report.terminal import show
from twinstep.scenario import Scenario, json_schema, load_scenario, plan_yaml

_DEFECT = 70
"""The exit code of what should not have happened (EX_SOFTWARE of sysexits.h)."""

app = typer.Typer(
    name="twinstep",
    help="Predict a distributed training plan, run it, and compare the two.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topology_app = typer.Typer(help="Look at topology graphs.", no_args_is_help=True)
app.add_typer(topology_app, name="topology")


@app.command()
def check(scenario: ScenarioArgument, overrides: SetOption = None) -> None:
    """Validate a scenario and print its plan: ranks, groups, bytes, memory, what cannot be executed here."""
    loaded = load_scenario(scenario, overrides or ())
    check_memory(loaded)
    table = Table("", escape(loaded.name), box=SIMPLE_HEAD, show_edge=False)
    for name, value in plan_lines(loaded):
        table.add_row(Text(name), Text(value))
    if loaded.plan.is_on_emulated_cluster:
        try:
            workflow.check_executable(loaded)
        except InputError as error:
            table.add_row(Text("cannot be built"), Text(error.problem))
    for caution in cautions(loaded, cached_profile()):
        table.add_row(Text("beware"), Text(caution))
    results.print(table)


@app.command()
def predict(
    scenario: ScenarioArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    report: ReportOption = False,
) -> None:
    """Simulate a scenario."""
    loaded = load_scenario(scenario, overrides or ())
    check_memory(loaded)
    known = _profile(loaded, profile)
    folder = _prepare(loaded, scenario, out)
    with paused_garbage_collection():
        shown = workflow.contents(loaded, known, workflow.predict(loaded, known), None)
        _finish(loaded, known, shown, folder, as_json, report)


@app.command()
def measure(
    scenario: ScenarioArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    report: ReportOption = False,
) -> None:
    """Execute a scenario on this machine."""
    loaded = load_scenario(scenario, overrides or ())
    workflow.check_executable(loaded)
    folder = _prepare(loaded, scenario, out)
    known = _profile(loaded, None) if loaded.emulates_calibrated_devices else None
    with progress_bar(f"measuring {loaded.name}") as progress:
        measurement = workflow.measure(loaded, known, progress)
    _finish(loaded, known, workflow.contents(loaded, known, None, measurement), folder, as_json, report)


@app.command()
def compare(
    scenario: ScenarioArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict and execute a scenario, and report where the two differ."""
    loaded = load_scenario(scenario, overrides or ())
    workflow.check_executable(loaded)
    folder = _prepare(loaded, scenario, out)
    known = _profile(loaded, None)
    prediction = workflow.predict(loaded, known, every_rank=True, whole=True)
    with progress_bar(f"measuring {loaded.name}") as progress:
        measurement = workflow.measure(loaded, known, progress)
    shown = workflow.contents(loaded, known, prediction, measurement)
    if other := workflow.by_programs(loaded):
        with progress_bar(f"measuring {loaded.name} by rank programs") as progress:
            shown = replace(shown, by_programs=workflow.measure(other, known, progress))
    _finish(loaded, known, shown, folder, as_json, report=True)
    if shown.comparison and shown.comparison.verdict == "outside":
        raise typer.Exit(1)


app.command()(sweep)


@app.command()
def calibrate(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write the profile; default: the user's cache."),
    ] = None,
) -> None:
    """Measure this machine (about five minutes on an idle one) and write its profile."""
    path = out or cached_path()
    with progress_bar("calibrating") as progress:
        profile = workflow.calibrate(path, progress)
    results.print(f"{escape(profile.title)}\n{escape(str(path))}", soft_wrap=True)


@app.command()
def export(
    scenario: ScenarioArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the traces.")],
    overrides: SetOption = None,
) -> None:
    """Write each rank's first step as a Chakra execution trace, which ASTRA-sim can run."""
    from twinstep.chakra import export_traces

    loaded = load_scenario(scenario, overrides or ())
    with progress_bar(f"exporting {loaded.name}") as progress:
        written = export_traces(loaded, out, progress)
    files = f"{escape(str(written.prefix))}.RANK.et"
    messages.print(f"wrote {written.ranks} traces, {written.nodes} nodes: {files}", soft_wrap=True)


@app.command()
def tensorboard(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of predict, measure or compare.")],
) -> None:
    """Write what a folder's timelines hold as event files for TensorBoard."""
    from twinstep.report.event_files import write_event_files

    for path in write_event_files(folder):
        messages.print(f"wrote {escape(str(path))}", soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenario files."""
    results.out(json_schema(), end="", highlight=False)


@topology_app.command("show")
def topology_show(
    topology: Annotated[str, typer.Argument(metavar="FILE", help="A path, or a shipped topology's name.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page to write; default <name>.html.")
    ] = None,
) -> None:
    """List a topology's nodes and links, and draw it as an HTML page."""
    from twinstep.report.topology_page import topology_page
    from twinstep.report.topology_view import topology_table
    from twinstep.topologies import read_topology

    loaded = read_topology(topology)
    results.print(topology_table(loaded))
    path = out or Path(f"{Path(topology).stem}.html")
    write_atomically(path, topology_page(Path(topology).stem, loaded))
    messages.print(f"wrote {escape(str(path))}", soft_wrap=True)


def _prepare(scenario: Scenario, source: str, out: Path | None) -> Path:
    """Make the output folder and put the plan into it, so that what cannot be written is known before the run.

    Raises InputError where the plan would replace its own `source`.
    """
    folder = output_folder(scenario.name, out)
    path, text = folder / "plan.yaml", plan_yaml(scenario.plan)
    if path.exists() and Path(source).exists() and path.samefile(source) and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} is the scenario itself: it would be replaced", remedy="choose another --out")
    write_atomically(path, text)
    return folder


def _profile(scenario: Scenario, path: Path | None) -> Profile | None:
    with progress_bar("calibrating") as progress:
        return workflow.find_profile(scenario, path, progress)


def _finish(
    scenario: Scenario, profile: Profile | None, shown: Contents, folder: Path, as_json: bool, report: bool
) -> None:
    """Write all files, then print the summary or the tables."""
    if report:
        shown = workflow.with_topology_figure(shown, scenario)
    write_outputs(folder, shown, html=report)
    if as_json:
        results.out(summary_text(shown), end="", highlight=False)
    else:
        show(shown, results)
        if profile is not None:
            messages.print(f"profile: {escape(profile.title)} ({profile.age_days:.1f} days old)", soft_wrap=True)
        messages.print(f"wrote {escape(str(folder))}", soft_wrap=True)


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise EndedError(f"ended by {signal.Signals(number).name}")


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        app()
    except (InputError, RunError, EndedError) as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(str(error), RunError.exit_code)
    except Exception:  # not exit code 1, which says that a prediction was wrong
        traceback.print_exc()
        _fail("this is a defect of twinstep, not of your input", _DEFECT)


def _fail(message: str, code: int) -> None:
    messages.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    try:
        sys.stdout.flush()
    except OSError:  # what it could not take must not be tried again, and fail again, at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
