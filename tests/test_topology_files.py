"""Topology files: the shipped ones, where others may lie, and bad ones refused with file, line and remedy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from twinstep import topologies
from twinstep.errors import InputError
from twinstep.strict_yaml import describe_validation, parse
from twinstep.topologies import Topology, TopologySpec, in_place, load, read_topology, shipped

SPEC: TypeAdapter[Any] = TypeAdapter(TopologySpec)
STAR = "builder: star\nhosts: 2\ndevice: cpu\nlink:\n  bandwidth: 10 Gb/s\n  latency: 1 us\n"
GRAPH = """\
builder: graph
nodes:
  - {kind: host, name: a}
  - {kind: device, name: gpu, host: a, device: cuda}
  - {kind: switch, name: s}
links:
  - {source: a, target: s, bandwidth: 1 Gb/s, latency: 1 us}
"""


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "problem", "remedy"),
    [
        (changed(STAR, "star", "sart"), 1, "builder: 'sart' is not known", "did you mean 'star'?"),
        (changed(STAR, "builder: star\n", ""), 1, "builder: missing", "add the key 'builder'; known: dragonfly"),
        (changed(STAR, "hosts: 2", "hosts: 0"), 2, "hosts: 0 must be greater", "correct"),
        (changed(STAR, "hosts: 2", "hosts: 200000"), 2, "hosts: 200000 must be less", "correct"),
        (changed(STAR, "hosts: 2", "host: 2"), 2, "host: unknown key", "did you mean 'hosts'?"),
        (changed(STAR, "hosts: 2", "hosts: two"), 2, "'two' must be a whole number", "write"),
        (changed(STAR, "cpu", "cpus"), 3, "device: 'cpus' is not known", "did you mean 'cpu'?"),
        (changed(STAR, "cpu", "{peak: 1 TFLOP/s}"), 3, "device.memory_bandwidth: missing", "add the key"),
        (changed(STAR, "10 Gb/s", "10"), 5, "link.bandwidth: 10: a bare number", "write for example"),
        (changed(STAR, "10 Gb/s", "0 Gb/s"), 5, "must be greater than zero", "write for example"),
        (changed(STAR, "10 Gb/s", "10 Gbps"), 5, "unknown unit 'Gbps'", "write for example"),
        (
            changed(STAR, "hosts: 2", "hosts: 50000\ndevices_per_host: 3"),
            1,
            "50000 hosts x 3 devices_per_host makes 150000 devices",
            "at most 131072",
        ),
        (changed(GRAPH, "name: s}", "name: gpu}"), 5, "two nodes have the name 'gpu'", "rename"),
        (changed(GRAPH, "name: s}", "name: ' s'}"), 5, "not a name", "write"),
        (changed(GRAPH, "host: a,", "host: b,"), 4, "there is no host 'b'", "known: a"),
        (changed(GRAPH, "host: a,", "host: s,"), 4, "there is no host 's'", "known: a"),
        (changed(GRAPH, "target: s", "target: ss"), 7, "there is no node 'ss'", "did you mean 's'?"),
        (changed(GRAPH, "target: s", "target: a"), 7, "joins 'a' to itself", "two nodes"),
        (changed(GRAPH, "target: s", "target: gpu"), 7, "'a' and 'gpu' are linked already", "remove"),
        (
            changed(GRAPH, "kind: device", "kind: devise"),
            4,
            "'devise' is not known",
            "did you mean 'device'?",
        ),
        (
            changed(GRAPH, "{kind: device, name: gpu, host: a, device: cuda}", "{kind: host, name: b}"),
            1,
            "no device",
            "add",
        ),
        ("file: star-4x10G", 1, "builder: missing", "known"),
        ("- star", 1, "must be a mapping", "write"),
        ("builder: star\nbuilder: ring", 2, "already on line 1", "remove"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_remedy(
    text: str, line: int, problem: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_topology(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


class TestFiles:
    @pytest.mark.parametrize("name", shipped())
    def test_each_shipped_topology_can_be_read_and_says_what_it_is(self, name: str, tmp_path: Path) -> None:
        found = read_topology(name)
        assert found.links == load(SPEC.validate_python({"file": name}), tmp_path).links
        text = (Path(topologies.__file__).parent / f"{name}.yaml").read_text()
        assert text.startswith("# ")

    def test_the_names_of_shipped_topologies_hold(self) -> None:
        assert [len(read_topology(name).devices) for name in shipped()] == [16, 16, 2, 32, 8, 4, 8, 16]
        regular = ["one-host-2", "rail-4x8", "ring-8x25G", "star-4x10G", "torus-2x4", "two-tier-4x4"]
        assert shipped() == ["dragonfly-4x2x2", "fat-tree-16", *regular]
        assert read_topology("ring-8x25G").path("host0", "host1")[0].bandwidth_bytes_per_s == 25e9 / 8

    def test_an_unknown_name_is_answered_with_the_known_ones(self, tmp_path: Path) -> None:
        for read in (read_topology, lambda name: load(SPEC.validate_python({"file": name}), tmp_path)):
            with pytest.raises(InputError, match=r"'star-4x10'.*\ndid you mean 'star-4x10G'\?.*\.yaml"):
                read("star-4x10")

    def test_a_file_below_the_scenario_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "fabrics").mkdir()
        (tmp_path / "fabrics/mine.yaml").write_text(STAR)
        (tmp_path / "link.yaml").symlink_to("fabrics/mine.yaml")
        for name in ("fabrics/mine.yaml", "./fabrics/../fabrics/mine.yaml", "link.yaml"):
            spec = SPEC.validate_python({"file": name})
            assert load(spec, tmp_path).hosts == ("host0", "host1")
            assert in_place(spec, tmp_path) == SPEC.validate_python(parse(STAR, "").data)

    def test_what_lies_outside_is_refused_unread(self, tmp_path: Path) -> None:
        folder = tmp_path / "scenarios"
        folder.mkdir()
        secret = tmp_path / "secret.yaml"
        secret.write_text(STAR)
        (folder / "link.yaml").symlink_to(secret)
        (folder / "up").symlink_to(tmp_path)
        scenario = parse("workload: 1\ntopology:\n  file: x", "scenario.yaml")
        for name in ("../secret.yaml", str(secret), "link.yaml", "up/secret.yaml", "../scenarios2/a.yaml"):
            with pytest.raises(InputError, match=r"^scenario\.yaml:3: .*outside") as caught:
                load(SPEC.validate_python({"file": name}), folder, document=scenario)
            assert "relative to that folder" in caught.value.remedy

    def test_a_file_and_a_builder_do_not_go_together(self) -> None:
        document = parse("file: star-4x10G\nbuilder: star", "scenario.yaml")
        with pytest.raises(ValidationError) as caught:
            SPEC.validate_python(document.data)
        told = str(describe_validation(caught.value, document, TopologySpec))
        assert told == "scenario.yaml:2: builder: does not go with the other keys here\nremove it"

    def test_a_path_that_leads_nowhere_is_refused(self, tmp_path: Path) -> None:
        os.symlink("loop.yaml", tmp_path / "loop.yaml")
        for name in ("loop.yaml", "nul\0.yaml", "absent.yaml", "~/a.yaml"):
            with pytest.raises(InputError) as caught:
                load(SPEC.validate_python({"file": name}), tmp_path)
            assert caught.value.remedy

    def test_an_error_in_the_file_names_the_file_not_the_scenario(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(changed(GRAPH, "target: s", "target: t"))
        scenario = parse("topology: {file: mine.yaml}", "scenario.yaml")
        with pytest.raises(InputError, match=r"mine\.yaml:7: there is no node 't'"):
            load(SPEC.validate_python({"file": "mine.yaml"}), tmp_path, document=scenario)

    def test_an_error_in_a_scenario_names_its_line(self, tmp_path: Path) -> None:
        text = "workload: 1\ntopology:\n" + "".join(
            f"  {line}\n" for line in changed(GRAPH, "host: a,", "host: b,").splitlines()
        )
        scenario = parse(text, "scenario.yaml")
        with pytest.raises(InputError, match=r"^scenario\.yaml:6: there is no host 'b'"):
            load(SPEC.validate_python(scenario.data["topology"]), tmp_path, document=scenario)


@settings(max_examples=2 * settings().max_examples)
@given(data=st.data())
def test_a_mutated_topology_file_is_a_topology_or_an_input_error(data: st.DataObject, tmp_path_factory: Any) -> None:
    content = bytearray(data.draw(st.sampled_from([STAR, GRAPH])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.sampled_from(list(b"[]{}:,&*!|>'\"%@`#-? \n\t\0\xff0123456789abcs")))
    path = tmp_path_factory.getbasetemp() / "mutated-topology.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_topology(str(path)), Topology)
    except InputError as error:
        assert error.remedy  # noqa: PT017 (either outcome is right)
