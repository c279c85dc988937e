"""Imports run one way, heavy packages stay in their corners, and light commands load none of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "src" / "twinstep"
PROFILE = Path(__file__).parent / "data" / "profile.json"

TOPOLOGY_PAGES = ("report.topology_layout", "report.topology_page", "report.topology_view")

# From the bottom to the top: what stands in a row may import what stands in the rows above it here, and itself.
# An entry is a module, or a package with all that has no entry of its own.
LAYERS = (
    ("bfloat16", "errors", "units", "spans", "kernels", "garbage", "strict_model", "memory_use", "splits"),
    ("meeting_table", "overlap"),
    ("timeline",),
    ("compression",),
    (
        "yaml_composer",
        "folders",
        "profile",
        "shaping",
        "synchronisation",
        "workloads",
        "compare",
        "communication",
        "disturbances",
        "progress",
        "timeline_lines",
    ),
    ("core_speed", "strict_yaml", "effects", "partition", "run", "survival", "sweep", "bubbles"),
    ("degrees", "model_configs", "overrides", "topologies", "torch_pipelines"),
    ("native",),
    ("sections",),
    ("plan", "costs"),
    ("learning",),
    ("processors",),
    ("built_links", "programs", "scenario"),
    ("host_memory",),
    ("memory",),
    ("report", *TOPOLOGY_PAGES),
    ("chakra", "check"),
    (
        "assumptions",
        "cautions",
    ),
    ("sim", "exec"),
    ("workflow",),
    ("console", "exec.worker", "sweep.run"),
    ("cli_sweep",),
    ("cli",),
    ("__main__",),
)

# Those that see less than the rows above them would allow.
NARROW = {
    "communication": {"overlap", "spans", "timeline"},
    "bubbles": {"communication", "spans", "timeline"},
    "progress": {"timeline"},
    "compare": {"timeline"},
    "report": {
        "bubbles",
        "communication",
        "compare",
        "errors",
        "memory_use",
        "progress",
        "sweep",
        "timeline",
        "timeline_lines",
        "units",
    },
    "sweep": {"units"},
    "workloads": {"kernels", "strict_model", "timeline", "units"},
    **{page: {"topologies", "units"} for page in TOPOLOGY_PAGES},
}

# Who may import a package that is slow to load, or that one place is to wrap.
OWNERS = {
    "google": {"chakra"},
    "jinja2": {"report"},
    "networkx": {*TOPOLOGY_PAGES, "topologies"},
    "plotly": {"report", *TOPOLOGY_PAGES},
    "scipy": {"learning", "sweep.run"},
    "simpy": {"sim"},
    "tensorboardX": {"report"},
    "sklearn": {"exec", "learning"},
    "torch": {"exec", "exec.worker"},
    "typer": {"cli", "cli_sweep", "console", "exec.worker"},
    "yaml": {"scenario", "strict_yaml", "yaml_composer"},
}

HEIGHT = {entry: height for height, row in enumerate(LAYERS) for entry in row}


class Import(NamedTuple):
    place: str
    importer: str
    imported: str
    """A dotted name, without `twinstep.` where it is ours."""
    ours: bool


def entry_of(name: str) -> str:
    """Give the table's entry for a dotted name below twinstep."""
    parts = name.split(".")
    whole = next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in HEIGHT), None)
    return whole or parts[0]


@cache
def imports() -> tuple[Import, ...]:
    """Give every import of every module, those within functions too; packages are read through their links."""
    files = sorted([*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py")])
    assert {"sim", "exec", "topologies"} <= {path.relative_to(ROOT).parts[0] for path in files}
    return tuple(each for path in files for each in imports_of(path))


def imports_of(path: Path) -> Iterator[Import]:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in imported_names(node):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            ours = name.split(".")[0] == "twinstep"
            yield Import(place, entry_of(module), name.removeprefix("twinstep."), ours)


def imported_names(node: ast.AST) -> list[str]:
    """Give the modules that a statement imports; of `from package import name` both may be one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write an absolute import"
        ours = str(node.module).split(".")[0] == "twinstep"
        return [f"{node.module}.{alias.name}" for alias in node.names] if ours else [str(node.module)]
    return []


def between_entries() -> list[Import]:
    found = [each._replace(imported=entry_of(each.imported)) for each in imports() if each.ours]
    return [each for each in found if each.importer not in (each.imported, "__init__")]


def test_every_module_has_a_row() -> None:
    tops = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    packages_without_imports = {"__init__", "scenarios"}
    missing = tops - set(HEIGHT) - packages_without_imports
    assert not missing, f"give these a row of LAYERS: {sorted(missing)}"


def test_imports_run_one_way() -> None:
    upwards = [
        f"{each.place}: {each.importer} imports {each.imported}"
        for each in between_entries()
        if HEIGHT[each.imported] >= HEIGHT[each.importer] and not within_report(each)
    ]
    assert upwards == []


def within_report(each: Import) -> bool:
    return each.importer.startswith("report") and each.imported.startswith("report")


def test_compare_and_report_see_plain_data_alone() -> None:
    seen = [
        f"{each.place}: {each.importer} imports {each.imported}"
        for each in between_entries()
        if each.importer in NARROW and each.imported not in NARROW[each.importer] and not within_report(each)
    ]
    assert seen == []


def test_packages_stay_with_their_owners() -> None:
    strangers = [
        f"{each.place}: {each.importer} imports {package}"
        for each in imports()
        for package in [each.imported.split(".")[0]]
        if not each.ours and package in OWNERS and each.importer not in OWNERS[package]
    ]
    assert strangers == []


def test_owners_and_narrow_entries_exist() -> None:
    users = {(each.imported.split(".")[0], each.importer) for each in imports() if not each.ours}
    assert {package for package, _ in users} >= set(OWNERS), "a package that nobody imports has no owner"
    assert set(NARROW) <= set(HEIGHT)


HEAVY = ("torch", "plotly", "sklearn")
RUN = """
import sys
from twinstep.cli import main
sys.argv = ["twinstep", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        pytest.param(RUN, ["--help"], id="--help", marks=pytest.mark.slow),
        pytest.param(RUN, ["check", "quickstart"], id="check", marks=pytest.mark.slow),
        pytest.param(RUN, ["predict", "quickstart", "--profile", str(PROFILE)], id="predict"),
        pytest.param("import sys, twinstep.exec.measure", [], id="import of exec.measure"),
    ],
)
def test_light_commands_load_nothing_heavy(program: str, arguments: list[str], tmp_path: Path) -> None:
    loaded = f"\nprint('loaded', *sorted(set(sys.modules) & set({HEAVY})))"
    command = [sys.executable, "-c", program + loaded, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
