"""Strict YAML: what is read, and what is refused, where and with which remedy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstep import strict_yaml
from twinstep.errors import InputError
from twinstep.strict_yaml import Document, parse, read

MIB = 2**20

VALID = """\
question: Does the bucket matter?   # a comment
workload: {kind: mlp, hidden: [64, 64], rate: 5e-6}
sync:
  bucket: "25 MiB"
  overlap: true
  notes: |
    two
    lines
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("123456789012345678", 123456789012345678),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("5e-6", 5e-6),
        ("1e9", 1e9),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("10 Gb/s", "10 Gb/s"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("'010'", "010"),
        ("[1, two]", [1, "two"]),
        ("{b: 1}", {"b": 1}),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_a_scalar_is_read_as_in_the_core_schema(text: str, value: object) -> None:
    found = parse(f"a: {text}", "f.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)


REFUSED = {
    "a: 1\nb: 2\na: 3": (3, "'a' is already on line 1", "remove one"),
    "a:\n  b: 010": (2, "010", "quote"),
    "a: 0x1F": (1, "0x1F", "decimal"),
    "a: -007": (1, "-007", "leading zeros"),
    "a: .inf": (1, ".inf is not a finite number", "finite"),
    "a: -.INF": (1, "not a finite number", "finite"),
    "a: .nan": (1, "not a finite number", "finite"),
    "a: 1e999": (1, "not a finite number", "finite"),
    "a: 1234567890123456789": (1, "more than 18 digits", "quote"),
    f"a: {'1' * 100}.0": (1, "not a finite number", "finite"),
    "a: &x 1\nb: *x": (1, "anchor &x", "remove it"),
    "a: 1\nb: *x": (2, "alias *x", "write the value itself"),
    "a: &x [1]": (1, "anchor &x", "remove it"),
    "a: !!python/object/apply:os.system [true]": (1, "the tag", "remove it"),
    "a: !!int 3": (1, "the tag", "remove it"),
    "a: !mine {b: 1}": (1, "the tag !mine", "remove it"),
    "a:\n  <<: {b: 1}": (2, "merge key", "write the keys themselves"),
    "1: a": (1, "'1' is not text", "quotes"),
    "true: a": (1, "'true' is not text", "quotes"),
    "?\n: a": (1, "'' is not text", "quotes"),
    "? [a]\n: 1": (1, "list or a mapping", "name"),
    "a: 1\n---\nb: 2": (2, "second document", "---"),
    "": (1, "holds nothing", "key: value"),
    "# only a comment\n": (1, "holds nothing", "key: value"),
    "---\n": (1, "holds nothing", "key: value"),
    "%YAML 1.1\n---\na: 1": (1, "directive", "remove the line"),
    "a: [1, 2\nb: 3": (2, "not YAML", "bracket"),
    "a: 'open": (1, "not YAML", "quote"),
    "a:\n\tb: 1": (2, "not YAML", "tab"),
    "a: b: c": (1, "not YAML", "colon"),
    "a: 1\nb: \x00": (2, "control character", "remove it"),
    "a: \x1b[31m": (1, "control character", "remove it"),
    "a: \u2028": (1, "control character", "remove it"),
    "a: \ud800": (1, "control character", "remove it"),
    'a: "\\0"': (1, "control character", "remove it"),
    'a: "\\e[31m"': (1, "control character", "remove it"),
    "\n" + "[" * 21 + "]" * 21: (2, "deeper than 20", "flatten"),
}


@pytest.mark.parametrize("loader", ["libyaml", "pure"])
@pytest.mark.parametrize("text", REFUSED)
def test_a_trap_is_refused_with_line_and_remedy(text: str, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loader == "pure":
        monkeypatch.setattr(strict_yaml, "_LOADER", yaml.SafeLoader)
    line, problem, remedy = REFUSED[text]
    with pytest.raises(InputError) as caught:
        parse(text, "f.yaml")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    if not (loader == "pure" and problem == "not YAML"):  # the two put the blame on different lines
        assert str(caught.value).startswith(f"f.yaml:{line}: ")


def test_an_escape_beyond_unicode_is_an_input_error_in_both_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        monkeypatch.setattr(strict_yaml, "_LOADER", loader)
        with pytest.raises(InputError, match="not YAML"):
            parse('a: "\\UFFFFFFFF"', "f.yaml")


def test_twenty_levels_are_read() -> None:
    value = parse("[" * 20 + "]" * 20, "f.yaml").data
    for _ in range(19):
        (value,) = value
    assert value == []


def test_every_key_and_item_has_its_line() -> None:
    document = parse(VALID, "f.yaml")
    assert document.lines[()] == 1
    assert document.lines["workload", "hidden", 1] == 2
    assert document.lines["sync", "notes"] == 6
    assert document.line_of(("sync", "notes", "absent", 3)) == 6
    assert document.line_of(("absent",)) == 1
    assert parse("\n\n- a\n- b: 1\n  c: 2", "f.yaml").line_of((1, "c")) == 5


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[]," * (MIB // 3 - 1) + "]",
        "- 5\n" * (MIB // 4),
        "[\n" * (MIB // 2),
        "- " * (MIB // 2),
        "? " * (MIB // 2),
        "{a: " * (MIB // 4),
        "{" + ",".join(f"k{i}: 1" for i in range(90_000)) + "}",
        "a: " + "1" * (MIB - 3),
        "a: 1." + "1" * (MIB - 5),
        "x" * (MIB - 3) + ": 1",
        "a: '" + "\n" * (MIB - 4),
        "".join(f"%TAG !{i}! b\n" for i in range(60_000)),
        "#" * MIB,
        "&a " * (MIB // 3),
        "!" * MIB,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_a_hostile_mebibyte_takes_less_than_two_seconds(text: str) -> None:
    begin_s = time.process_time()  # of this process alone: others may be busy, too
    try:
        parse(text, "f.yaml")
    except InputError as error:
        assert len(str(error)) < 1000  # noqa: PT017 (either outcome is right)
    assert time.process_time() - begin_s < 2


class TestRead:
    def refusal(self, path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.remedy
        return str(caught.value)

    def test_a_file_is_read_with_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + VALID.encode())
        document = read(path)
        assert document.place == str(path)
        assert document.data["sync"] == {"bucket": "25 MiB", "overlap": True, "notes": "two\nlines\n"}

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        assert "no such file" in self.refusal(tmp_path / "absent.yaml")
        assert "is a folder" in self.refusal(tmp_path)
        os.mkfifo(tmp_path / "pipe.yaml")
        assert "not a regular file" in self.refusal(tmp_path / "pipe.yaml")
        assert "cannot be read" in self.refusal(tmp_path / "nul\0.yaml")
        assert "cannot be read" in self.refusal(tmp_path / ("x" * 300))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_an_unreadable_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text(VALID)
        path.chmod(0)
        assert "Permission denied" in self.refusal(path)

    def test_too_large_a_file_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        with path.open("wb") as file:
            file.truncate(2**40)
        assert f"has {2**40} bytes" in self.refusal(path)

    def test_what_is_not_utf_8_is_refused_with_the_byte(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(b"a: 1\nb: caf\xe9\n")
        assert self.refusal(path).startswith(f"{path}:2: byte 11 (0xe9) is not UTF-8")


@settings(max_examples=5 * settings().max_examples)
@given(data=st.data())
def test_a_mutated_file_is_a_document_or_an_input_error(data: st.DataObject, tmp_path_factory: Any) -> None:
    content = bytearray(VALID.encode())
    interesting = st.sampled_from(list(b"[]{}:,&*!|>'\"%@`#-? \n\t\0\xff0123456789"))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 2))] = bytes([data.draw(interesting)])
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read(path), Document)
    except InputError as error:
        assert error.remedy  # noqa: PT017 (either outcome is right)
