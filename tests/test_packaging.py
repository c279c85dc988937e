"""What users install: the source archive and the wheel hold everything, and a scenario runs from the wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROFILE = Path(__file__).parent / "data" / "profile.json"
SOURCES = ("src", "sim", "exec", "topologies", "scenarios", "pyproject.toml", "README.md", "LICENSE")
SUFFIXES = {".py", ".yaml", ".json", ".j2", ".typed"}

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source archive and, from it, the wheel; in a copy, so that the working tree stays as it is."""
    copy = tmp_path_factory.mktemp("packaging") / "twinstep"
    copy.mkdir()
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(
                REPOSITORY / name,
                copy / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
            )
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", folder=copy)
    (sdist,), (wheel,) = (copy / "dist").glob("*.tar.gz"), (copy / "dist").glob("*.whl")
    return sdist, wheel


def expected() -> set[str]:
    """Give the files of the package, by their paths as it is imported."""
    root = REPOSITORY / "src"
    folders = [root / "twinstep", *(path for path in (root / "twinstep").iterdir() if path.is_dir())]
    files = {file.relative_to(root).as_posix() for folder in folders for file in folder.rglob("*")}
    return {file for file in files if Path(file).suffix in SUFFIXES}


def test_wheel_holds_every_file_of_the_package(archives: tuple[Path, Path]) -> None:
    held = set(zipfile.ZipFile(archives[1]).namelist())
    assert {f"twinstep/{name}" for name in IMPORTANT} <= expected()
    assert expected() - held == set()
    assert any(name.endswith("licenses/LICENSE") for name in held)


IMPORTANT = (
    "exec/worker.py",
    "py.typed",
    "report/report.html.j2",
    "scenarios/quickstart.yaml",
    "scenarios/scenario.schema.json",
    "sim/simulate.py",
    "topologies/star-4x10G.yaml",
)


def test_source_archive_holds_what_the_wheel_is_built_from(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in expected()} - held == set()
    assert {"pyproject.toml", "README.md", "LICENSE"} <= held


def test_scenario_runs_from_the_wheel(archives: tuple[Path, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", archives[1])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = run(python, "-c", "import twinstep; print(twinstep.__file__)", folder=elsewhere)
    assert Path(place.strip()).is_relative_to(tmp_path)
    command = python.with_name("twinstep")
    arguments = ["predict", "quickstart", "--profile", PROFILE, "--report", "--out", "out", "--json"]
    summary = json.loads(run(command, *arguments, folder=elsewhere))
    assert summary["predicted"]["step_time_s"] > 0
    assert (elsewhere / "out" / "report.html").stat().st_size > 10_000
    run(command, "topology", "show", "star-4x10G", folder=elsewhere)
    run(python, "-c", "import twinstep.exec.worker", folder=elsewhere)


def environment(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment with the wheel; all else comes from the packages of this one. Give its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, *install, folder=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python
