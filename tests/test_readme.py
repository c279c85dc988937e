"""The commands of the README and of the user guide: those that are cheap are run, and all of them exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
PROFILE = Path(__file__).parent / "data" / "profile.json"
PAGES = ("README.md", "docs/guide.md")

CHEAP = ("check", "predict", "sweep", "topology", "schema", "--help")
SLOW = ("calibrate", "measure", "compare")
OTHERS = {"make", "pip", "torchrun"}

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCENARIO_NAME = re.compile(r"# (\S+\.yaml)\n")


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [content for found, content in BLOCK.findall(text) if found == language]


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


LINES = dict.fromkeys(shlex.join(command) for page in PAGES for command in commands(page))  # each once
CASES = [pytest.param(shlex.split(line), id=line) for line in LINES]
LONG = re.compile(r"sweep .*(allreduce|bandwidth|data=)|predict (ps-|gpt3|hybrid|gossip|topk)|--report")
"""Commands that take a second and more, which the fast suite leaves out."""
CHEAP_CASES = [
    pytest.param(shlex.split(line), id=line, marks=pytest.mark.slow if LONG.search(line) else ())
    for line in LINES
    if line.startswith("twinstep ") and shlex.split(line)[1] in CHEAP
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    Path("their-machine.json").write_bytes(PROFILE.read_bytes())
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if name := SCENARIO_NAME.match(block):
                Path(name[1]).write_text(block, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_commands(page: str) -> None:
    assert any(command[:2] == ["twinstep", "predict"] for command in commands(page))


@pytest.mark.parametrize("command", CASES)
def test_command_is_known(command: list[str]) -> None:
    program, *arguments = command
    assert program in OTHERS or (program == "twinstep" and arguments[0] in CHEAP + SLOW)


@pytest.mark.parametrize("command", [case for case in CASES if case.values[0][0] == "make"])
def test_make_target_exists(command: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in command[1:])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", CHEAP_CASES)
def test_command_works(command: list[str], run_cli: Callable[..., Any]) -> None:
    ended = run_cli(*command[1:])
    assert ended.code == 0, ended.err
    assert ended.out.strip()
