"""Whatever is wrong with a scenario file: exit code 2 and a message with file, line, value and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command_line import GOOD, Ended, assert_refused

from twinstep.errors import InputError
from twinstep.scenario import load_scenario

GPT = "kind: gpt\n  layers: 1\n  heads: 3\n  width: 16\n  context: 4"
GRAPH = """builder: graph
  nodes:
    - {kind: host, name: a}
    - {kind: host, name: b}
    - {kind: device, name: a0, host: a, device: cpu}
    - {kind: device, name: b0, host: b, device: cpu}
"""

# What is replaced in GOOD, by what, the line to be named, and words of the message.
BAD_VALUES = {
    "misspelt section": ("sync:", "synk:", 8, ["synk", "unknown key", "did you mean 'sync'?"]),
    "misspelt key": ("batch: 12", "bacth: 12", 5, ["workload.bacth", "unknown key", "did you mean 'batch'?"]),
    "misspelt word": ("kind: mlp", "kind: mpl", 3, ["'mpl' is not known", "did you mean 'mlp'?"]),
    "misspelt builder": ("one_host", "one_hots", 11, ["'one_hots' is not known", "did you mean 'one_host'?"]),
    "unknown placement": ("data: 2", "data: 2\n  placement: hush", 8, ["'hush' is not known", "hash"]),
    "duplicate key": ("  batch: 12", "  batch: 12\n  batch: 12", 6, ["'batch' is already on line 5", "remove one"]),
    "text for a number": ("steps: 3", "steps: three", 16, ["run.steps", "'three' must be a whole number"]),
    "quoted number": ("steps: 3", "steps: '3'", 16, ["run.steps", "'3' must be a whole number"]),
    "fraction for a number": ("steps: 3", "steps: 3.5", 16, ["run.steps", "3.5"]),
    "truth for a number": ("steps: 3", "steps: true", 16, ["run.steps", "True must be a whole number"]),
    "word for a truth": ("1 MiB", "1 MiB\n  overlap: yes", 10, ["sync.overlap", "'yes' must be true or false"]),
    "list for a number": ("steps: 3", "steps: [3]", 16, ["run.steps", "whole number"]),
    "number for a list": ("[16, 8]", "16", 4, ["workload.hidden", "16 must be a list"]),
    "number for a section": ("  data: 2", "  4", 6, ["partition", "4 must be a mapping"]),
    "nothing for a section": ("  data: 2\n", "", 6, ["partition", "an empty value must be a mapping"]),
    "no unit": ("1 MiB", "1048576", 9, ["sync.bucket", "1048576", "no unit", "'25 MiB'"]),
    "unknown unit": ("1 MiB", "1 MIB", 9, ["sync.bucket", "'1 MIB'", "unknown unit 'MIB'", "'25 MiB'"]),
    "unit of something else": ("timeout: 5 s", "timeout: 5 MiB", 17, ["run.timeout", "'5 MiB'", "'5 us'"]),
    "part of a byte": ("1 MiB", "1 b", 9, ["sync.bucket", "whole number of bytes"]),
    "no size": ("1 MiB", "0 B", 9, ["sync.bucket", "'0 B'", "greater than zero"]),
    "negative size": ("1 MiB", "-1 MiB", 9, ["sync.bucket", "'-1 MiB'", "not negative"]),
    "infinite size": ("1 MiB", "1e400 B", 9, ["sync.bucket", "finite"]),
    "not a number of bytes": ("1 MiB", "nan B", 9, ["sync.bucket", "'nan B'", "not a quantity"]),
    "no time": ("timeout: 5 s", "timeout: 0 s", 17, ["run.timeout", "'0 s'", "greater than zero"]),
    "no bandwidth": ("1 Gb/s", "0 Gb/s", 14, ["topology.link.bandwidth", "'0 Gb/s'", "greater than zero"]),
    "negative latency": ("1 us", "-1 us", 14, ["topology.link.latency", "'-1 us'", "not negative"]),
    "no peak": ("1 GFLOP/s", "0 FLOP/s", 13, ["topology.device.peak", "'0 FLOP/s'", "greater than zero"]),
    "no batch": ("batch: 12", "batch: 0", 5, ["workload.batch", "0 must be greater"]),
    "negative batch": ("batch: 12", "batch: -12", 5, ["workload.batch", "-12 must be greater"]),
    "more than the data set": ("batch: 12", "batch: 1798", 5, ["workload.batch", "1798", "1797"]),
    "no neurons": ("[16, 8]", "[16, 0]", 4, ["workload.hidden[1]", "0 must be greater"]),
    "no layers": ("[16, 8]", "[]", 4, ["workload.hidden", "at least 1"]),
    "no steps": ("steps: 3", "steps: 0", 16, ["run.steps", "0 must be greater"]),
    "too many steps": ("steps: 3", "steps: 100001", 16, ["run.steps", "100001", "100000"]),
    "no devices": ("devices: 3", "devices: 0", 12, ["topology.devices", "0 must be greater"]),
    "too many devices": ("devices: 3", "devices: 200000", 12, ["topology.devices", "200000", "131072"]),
    "no ranks": ("data: 2", "data: 0", 7, ["partition.data", "0 must be greater"]),
    "no tolerance": ("steps: 3", "tolerance: 0", 16, ["run.tolerance", "0 must be greater"]),
    "heads do not divide": (
        "kind: mlp\n  hidden: [16, 8]", GPT, 2, ["workload", "heads (3) must divide width (16)"],
    ),
    "more ranks than devices": ("data: 2", "data: 4", 7, ["4 ranks", "3 devices", "lower partition.data"]),
    "straggler twice": (
        "steps: 3", "stragglers: [{rank: 0, slowdown: 2}, {rank: 0, slowdown: 3}]", None, ["names a rank twice"],
    ),
    "straggler beyond": ("steps: 3", "stragglers: [{rank: 2, slowdown: 2}]", None, ["rank 2", "from 0 to 1"]),
    "faster straggler": ("steps: 3", "stragglers: [{rank: 1, slowdown: 0.5}]", 16, ["[0].slowdown", "0.5"]),
    "no emulation of rates": ("compute: emulated", "compute: real", 18, ["run.compute is real", "emulated"]),
    "number that is none": ("steps: 3", "steps: .nan", 16, [".nan is not a finite number"]),
    "infinite number": ("steps: 3", "steps: -.inf", 16, ["-.inf is not a finite number"]),
    "overflowing number": ("steps: 3", "steps: 1e999", 16, ["1e999 is not a finite number"]),
    "huge number": ("steps: 3", f"steps: {'9' * 19}", 16, ["more than 18 digits"]),
    "huger number": ("steps: 3", f"steps: {'9' * 9999}", 16, ["more than 18 digits"]),
    "octal number": ("steps: 3", "steps: 010", 16, ["010 can be read as octal"]),
    "long question": ("Is it fast?", "x" * 501, 1, ["question", "500"]),
    "file that is a path elsewhere": (
        "builder: one_host\n  devices: 3", "file: ../../fabric.yaml", 11, ["outside", "in or below"],
    ),
    "no path": ("builder: one_host\n  devices: 3", GRAPH, 10, ["no path leads from device 'a0' to device 'b0'"]),
    "alias": ("[16, 8]", "&a [16, 8]", 4, ["anchor &a", "remove it"]),
    "tag": ("[16, 8]", "!!python/tuple [16, 8]", 4, ["tag", "python/tuple", "remove it"]),
    "merge key": ("data: 2", "<<: {data: 2}", 7, ["merge key"]),
    "second document": ("sync:", "---\nsync:", 8, ["second document"]),
    "tab": ("  batch: 12", "\tbatch: 12", 5, ["not YAML"]),
    "open bracket": ("[16, 8]", "[16, 8", None, ["not YAML", "bracket"]),
    "control character": ("fast?", "fast\x1b[31m?", 1, ["control character '\\x1b'"]),
    "escaped control character": ("Is it fast?", '"\\e[31m"', 1, ["control character '\\x1b'"]),
}  # fmt: skip


def without_device_and_link(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if "peak" not in line and "latency" not in line)


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_bad_values_are_named_with_line_and_remedy(bad: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    old, new, line, words = BAD_VALUES[bad]
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    path = tmp_path / "plan.yaml"
    path.write_text(without_device_and_link(text) if "builder: one_host" in old else text)
    where = f"{path}:" if line is None else f"{path}:{line}: "
    assert_refused(run_cli("predict", path, "--out", tmp_path / "out"), where, *words)
    assert not (tmp_path / "out").exists()


def test_the_base_of_the_bad_values_is_good(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD)
    assert run_cli("predict", path, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("data: 2", "data: 5\n", 7),
        ("steps: 3", "stragglers: [{rank: 2, slowdown: 2}]", 16),
    ],
)
def test_errors_of_several_sections_name_the_line_of_one(old: str, new: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=f"plan.yaml:{line}: "):
        load_scenario(str(path))


def test_degree_that_does_not_divide_names_both_numbers(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD.replace("data: 2", "data: 5"))
    assert_refused(run_cli("predict", path), str(path), "partition.data (5) must divide workload.batch (12)")


def bomb(levels: int) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *lines])


BAD_FILES = {
    "empty": (b"", 1, "holds nothing"),
    "blank": (b"\n\n# nothing here\n", 1, "holds nothing"),
    "list": (b"- 1\n- 2\n", 1, "must be a mapping"),
    "text": (b"hello\n", 1, "must be a mapping"),
    "not UTF-8": (b"question: caf\xe9\n", 1, "byte 13 (0xe9) is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "is not UTF-8"),
    "nul": (b"question: a\0b\n", 1, "control character '\\x00'"),
    "binary": (bytes(range(256)), None, "is not UTF-8"),
    "alias bomb": (bomb(9).encode(), 1, "anchor &a0"),
    "alias to itself": (b"a: &a [*a]\n", 1, "anchor &a"),
    "10 MB": (b"question: " + b"x" * 10_000_000, None, "has 10000010 bytes"),
    "10 MB of lines": (b"- x\n" * 2_500_000, None, "has 10000000 bytes"),
    "deep lists": (b"a: " + b"[" * 5000, 1, "nested deeper than 20 levels"),
    "deep mappings": (b"a: " + b"{b: " * 5000, 1, "nested deeper than 20 levels"),
    "deep blocks": (b"".join(b" " * n + b"a:\n" for n in range(500)), 21, "nested deeper than 20 levels"),
    "many values": (b"[" + b"1," * 200_000 + b"]", 1, "more than 100000 values"),
    "many keys": (b"".join(b"k%d: 1\n" % n for n in range(50_000)), 1, "unknown key"),
    "long key": (b"k" * 100_000 + b": 1\n" + GOOD.encode(), None, ""),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_bad_files_are_refused(bad: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    content, line, words = BAD_FILES[bad]
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    assert_refused(run_cli("predict", path), f"{path}:{line}: " if line else str(path), words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such.yaml", ["no-such.yaml: no such file", "check the path"]),
        ("no-such-folder/plan.yaml", ["no such file"]),
        ("folder.yaml", ["is a folder"]),
        ("loop.yaml", ["cannot be read"]),
        ("n" * 300 + ".yaml", ["cannot be read"]),
        ("n" * 5000, ["there is no scenario"]),
        ("nul\0.yaml", ["cannot be read"]),
        ("/dev/zero", ["not a regular file"]),
        ("/proc/self/mem", ["cannot be read"]),
        ("quikstart", ["there is no scenario 'quikstart'", "did you mean 'quickstart'?"]),
        ("", ["there is no scenario ''", "quickstart"]),
    ],
)
def test_scenarios_that_cannot_be_read(
    name: str, words: list[str], run_cli: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    assert_refused(run_cli("predict", name), "", *words)
    assert not Path("runs").exists()


BAD_TOPOLOGY_FILES = {
    "outside": ("../fabric.yaml", 2, "outside"),
    "absolute": ("/etc/fabric.yaml", 2, "outside"),
    "link to outside": ("outside.yaml", 2, "outside"),
    "nul": ('"a\\0.yaml"', 2, "control character"),
    "password file": ("/etc/passwd", 2, "there is no shipped topology"),
    "up and down": ("../../../../../../etc/passwd", 2, "there is no shipped topology"),
    "misspelt": ("star-4x10g", 2, "did you mean 'star-4x10G'?"),
    "missing": ("fabric.yaml", None, "no such file"),
    "empty": ("''", 2, "at least 1 character"),
    "folder": ("folder.yaml", None, "is a folder"),
}


@pytest.mark.parametrize("bad", BAD_TOPOLOGY_FILES)
def test_topology_files_outside_or_missing(bad: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    file, line, words = BAD_TOPOLOGY_FILES[bad]
    home = tmp_path / "home"
    (home / "folder.yaml").mkdir(parents=True)
    (tmp_path / "fabric.yaml").write_text("builder: one_host\ndevices: 2\ndevice: cpu\n")
    (home / "outside.yaml").symlink_to("../fabric.yaml")
    path = home / "plan.yaml"
    path.write_text(f"topology:\n  file: {file}\nworkload: {{kind: mlp, hidden: [4], batch: 4}}\n")
    assert_refused(run_cli("predict", path), f"{path}:{line}: " if line else str(home), words)


def test_errors_in_a_topology_file_name_its_line(run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "fabric.yaml").write_text("builder: one_host\ndevices: two\ndevice: cpu\n")
    path = tmp_path / "plan.yaml"
    path.write_text("topology: {file: fabric.yaml}\nworkload: {kind: mlp, hidden: [4], batch: 4}\n")
    assert_refused(run_cli("predict", path), f"{tmp_path / 'fabric.yaml'}:2: ", "devices", "'two'")


EXTREMES = {
    "slow link": ("latency: 1 us", "latency: 1e300 h"),
    "thin link": ("bandwidth: 1 Gb/s", "bandwidth: 1e-300 Gb/s"),
    "slow device": ("peak: 1 GFLOP/s", "peak: 1e-300 FLOP/s"),
    "long timeout": ("timeout: 5 s", "timeout: 1e300 h"),
    "large bucket": ("bucket: 1 MiB", "bucket: 1e300 B"),
}


@pytest.mark.parametrize("extreme", EXTREMES)
def test_quantities_of_no_machine_are_refused(extreme: str, run_cli: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(GOOD.replace(*EXTREMES[extreme]))
    assert_refused(
        run_cli("predict", path, "--out", tmp_path / "out"), f"{path}:", EXTREMES[extreme][1].partition(":")[0]
    )
