"""Mutated scenarios: whatever comes out is a valid scenario or an InputError, and never markup in a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.command_line import GOOD

from twinstep import workflow
from twinstep.errors import InputError
from twinstep.plan import Plan
from twinstep.profile import Profile
from twinstep.report.html import render_html
from twinstep.scenario import SHIPPED, Scenario, load_scenario, plan_yaml, shipped_scenarios

BYTES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"\0", b"\xff", b"\xc3", b"\t", b"&a ", b"*a", b"<<: ", b"!!int ", b"- ", b": ", b"{", b"[", b"|\n"]
    ),
    st.sampled_from(
        [b"'", b'"', b"%", b"---\n", b"#", b"\r", b"\xe2\x80\xa8", b"1e999", b"-1", b"0", b"9" * 40, b"\\x"]
    ),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["1 MiB", "0 s", "-1 Gb/s", "1e300 h", "1e5", "0o17", "cpu", "cuda", "real", "gpt", "star", "graph"]
    ),
    st.sampled_from([0, 1, 2, 3, 4096, 4097, [], {}, [[]], {"": None}, ["x"] * 5, {"file": "star-4x10G"}]),
)


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    content = (SHIPPED / f"{draw(st.sampled_from(shipped_scenarios()))}.yaml").read_bytes()
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 20)))
        content = content[:start] + draw(BYTES) + content[end:]
    return content


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Give every mapping or list together with each of its keys or positions."""
    for key in list(data if isinstance(data, dict) else range(len(data))):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


@st.composite
def mutated_structure(draw: st.DrawFn) -> bytes:
    data = yaml.safe_load((SHIPPED / f"{draw(st.sampled_from(shipped_scenarios()))}.yaml").read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        if not (known := list(places(data))):
            break
        parent, key = draw(st.sampled_from(known))
        match draw(st.sampled_from(["replace", "remove", "rename", "copy"])):
            case "replace":
                parent[key] = deepcopy(draw(VALUES))
            case "remove":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = parent.pop(key)
            case "copy":
                other, other_key = draw(st.sampled_from(known))
                other[other_key] = deepcopy(parent[key])
    return yaml.safe_dump(data, allow_unicode=True).encode(errors="surrogatepass")


def load(content: bytes, folder: Path, *overrides: str) -> Scenario | InputError:
    path = folder / "plan.yaml"
    path.write_bytes(content)
    try:
        return load_scenario(str(path), overrides)
    except InputError as error:
        return error


mutations = settings(
    max_examples=6 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@mutations
@given(content=st.one_of(mutated_bytes(), mutated_structure()))
def test_mutated_scenarios_are_valid_or_refused(content: bytes, folder: Path) -> None:
    found = load(content, folder)
    if isinstance(found, InputError):
        assert found.problem
        assert found.remedy
        assert str(found).startswith(str(folder / "plan.yaml"))
    else:
        assert found.plan == reread(found, folder)


def reread(scenario: Scenario, folder: Path) -> Plan | str:
    """Give the plan that plan.yaml holds; what is wrong with it where it cannot be read."""
    found = load(plan_yaml(scenario.plan).encode(), folder)
    return found.plan if isinstance(found, Scenario) else str(found)


TRAPS = [
    "1e5",
    "-1.E+5",
    "0o17",
    "012",
    "0x1f",
    "12:30",
    "no",
    "null",
    "1_0",
    "2026-11-21",
    "=",
    "<<",
    "%a",
    "#",
    "-",
    "?",
]


@pytest.mark.parametrize("text", [*TRAPS, "- a", "\U0001f600", " a ", "word " * 99, "a\n\nb\n"])
def test_text_that_looks_like_something_else_survives_plan_yaml(text: str, folder: Path) -> None:
    scenario = load(GOOD.replace("Is it fast?", json.dumps(text, ensure_ascii=False)).encode(), folder)
    assert isinstance(scenario, Scenario)
    assert scenario.plan.question == text
    assert scenario.plan == reread(scenario, folder)


@mutations
@given(
    start=st.sampled_from(["", "run.", "run.steps", "workload.", "workload.hidden.", "topology.", "sync.bucket"]),
    key=st.text(max_size=30),
    value=st.one_of(st.text(max_size=30), VALUES.map(repr)),
)
def test_any_override_is_taken_or_refused(start: str, key: str, value: str, folder: Path) -> None:
    found = load(GOOD.encode(), folder, f"{start}{key}={value}")
    assert isinstance(found, Scenario) or found.remedy


EVIL_GRAPH = """\
question: "<script>alert(1)</script><img src=x onerror=alert(2)>"
workload: {kind: mlp, hidden: [4], batch: 4}
partition: {data: 2}
topology:
  builder: graph
  nodes:
    - {kind: host, name: "<script>alert(1)</script>"}
    - {kind: switch, name: "</script><img src=x onerror=alert(2)>"}
    - {kind: device, name: "d0<script>alert(1)</script>", host: "<script>alert(1)</script>", device: cpu}
    - {kind: device, name: "d1<b onclick=alert(1)>", host: "<script>alert(1)</script>", device: cpu}
  links:
    - source: "<script>alert(1)</script>"
      target: "</script><img src=x onerror=alert(2)>"
      bandwidth: 1 Gb/s
      latency: 1 us
run: {steps: 2}
"""


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<script>", "<img src=x onerror=alert(2)>", "'\"><b onclick=alert(3)>"]
)
def test_hostile_strings_do_not_get_into_the_report_as_markup(name: str, profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(EVIL_GRAPH)
    scenario = load_scenario(str(path))
    prediction = workflow.predict(scenario, profile)
    shown = workflow.with_topology_figure(workflow.contents(scenario, profile, prediction, None), scenario)
    html = render_html(shown).lower()
    for raw in ("<script>alert", "<img src=x", "<b onclick", "</script><img"):
        assert raw not in html
    assert "&lt;script&gt;alert(1)" in html, "the question is not shown"
