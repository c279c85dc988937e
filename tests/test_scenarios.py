"""Every shipped scenario is valid, predicts, survives being written and read again, and fits the JSON Schema."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.repeated import slow_but

from twinstep import strict_yaml, workflow
from twinstep.profile import Profile
from twinstep.scenario import SHIPPED, json_schema, load_scenario, plan_yaml, shipped_scenarios

SCHEMA = SHIPPED / "scenario.schema.json"
PROFILE = Path(__file__).parent / "data" / "profile.json"

each_scenario = pytest.mark.parametrize("name", shipped_scenarios())
LONG = ("ps-", "gpt3-1024", "hybrid", "gossip", "topk", "hogwild")
"""Those whose prediction takes half a second and more: the fast suite leaves it out."""


def test_scenarios_are_shipped() -> None:
    assert "quickstart" in shipped_scenarios()


@each_scenario
def test_check_accepts(name: str, run_cli: Callable[..., Any]) -> None:
    ended = run_cli("check", name)
    assert ended.code == 0, ended.err
    assert ended.out.strip()


@each_scenario
def test_asks_a_question(name: str) -> None:
    assert load_scenario(name).plan.question.endswith("?")


@pytest.mark.parametrize(
    "name", slow_but([name for name in shipped_scenarios() if not name.startswith(LONG)], shipped_scenarios())
)
def test_predicts_every_step_of_every_rank(name: str, profile: Profile) -> None:
    """Every rank has spans of its own, or in a large plan stands behind a representative that has."""
    scenario = load_scenario(name)
    run = scenario.plan.run
    timeline = workflow.predict(scenario, profile if workflow.needs_profile(scenario) else None).timeline
    steps = timeline.steps()
    assert sorted(steps) == list(range(run.warmup, run.warmup + run.steps))
    there = {rank for twins in timeline.twins for rank in twins.ranks}
    assert there == set(range(scenario.plan.ranks)) - {death.rank for death in run.deaths}
    assert all(set(by_rank) == {twins.representative for twins in timeline.twins} for by_rank in steps.values())
    assert timeline.step_time_s() > 0


def test_scenarios_that_no_executor_runs_are_refused_by_measure(run_cli: Callable[..., Any]) -> None:
    predicted_only = [name for name in shipped_scenarios() if load_scenario(name).plan.predicted_only]
    assert predicted_only == ["gpt3-1024", "llama-8b-64", "nccl-all-reduce", "offload-13b"]
    for name in predicted_only:
        ended = run_cli("measure", name)
        assert ended.code == 2
        assert "can only be predicted" in ended.err


@each_scenario
def test_plan_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    plan = load_scenario(name).plan
    path = tmp_path / f"{name}.yaml"
    path.write_text(plan_yaml(plan), encoding="utf-8")
    assert load_scenario(str(path)).plan == plan
    assert plan_yaml(load_scenario(str(path)).plan) == plan_yaml(plan)


def test_schema_is_fresh() -> None:
    assert SCHEMA.is_file(), "run `make schema`"
    assert SCHEMA.read_text(encoding="utf-8") == json_schema(), "the plan has changed: run `make schema`"


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@each_scenario
def test_schema_accepts(name: str, validator: Any) -> None:
    validator.validate(strict_yaml.read(SHIPPED / f"{name}.yaml").data)


@pytest.mark.parametrize("path", [("workload", "kind"), ("topology", "device"), ("sync", "bucket"), ("extra",)])
def test_schema_refuses(path: tuple[str, ...], validator: Any) -> None:
    document = strict_yaml.read(SHIPPED / "quickstart.yaml").data
    section = document
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = 17
    assert not validator.is_valid(document)


@each_scenario
def test_names_its_schema_for_editors(name: str) -> None:
    text = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA.name}\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "overlap"])
def test_prediction_is_the_same_to_the_byte(name: str, tmp_path: Path) -> None:
    digests = {predicted_digest(name, tmp_path / run, hash_seed=run[-1]) for run in ("a0", "a1", "b2")}
    assert len(digests) == 1


def predicted_digest(name: str, out: Path, hash_seed: str) -> str:
    command = [sys.executable, "-m", "twinstep", "predict", name, "--profile", str(PROFILE), "--out", str(out)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    predicted = (out / "predicted.jsonl").read_bytes()
    assert predicted.count(b"\n") > 100
    return hashlib.sha256(predicted).hexdigest()
