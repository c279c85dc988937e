"""What the user is told when a file is good YAML and a bad scenario."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from twinstep.strict_yaml import describe_validation, parse
from twinstep.units import SizeBytes


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Mlp(_Model):
    kind: Literal["mlp"]
    hidden: Annotated[tuple[int, ...], Field(strict=False)]


class Cnn(_Model):
    kind: Literal["cnn"]
    depth: Annotated[int, Field(ge=1)] = 1


class Sync(_Model):
    bucket: SizeBytes = 25
    overlap: bool = True
    mode: Literal["ring", "tree"] = "ring"
    weights: dict[str, float] = {}

    @field_validator("overlap")
    @classmethod
    def _never(cls, value: bool) -> bool:
        if not value:
            raise ValueError("overlap is off: write true")
        return value


class Plan(_Model):
    workload: Annotated[Mlp | Cnn, Field(discriminator="kind")]
    sync: Sync = Sync()


def description(text: str) -> str:
    document = parse(text, "f.yaml")
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(document.data)
    return str(describe_validation(caught.value, document, Plan))


CNN = "workload: {kind: cnn}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CNN + "sync:\n  bukcet: 1 MiB",
            "f.yaml:3: sync.bukcet: unknown key\ndid you mean 'bucket'? known: bucket, overlap, mode, weights",
        ),
        (
            CNN + "sync:\n  bucket: 25",
            "f.yaml:3: sync.bucket: 25: a bare number has no unit\nwrite for example '25 MiB'",
        ),
        (CNN + "sync: {overlap: 1}", "f.yaml:2: sync.overlap: 1 must be true or false\nwrite true or false"),
        (CNN + "sync: {overlap: false}", "f.yaml:2: sync.overlap: False: overlap is off\nwrite true"),
        (
            CNN + "sync: {mode: rign}",
            "f.yaml:2: sync.mode: 'rign' is not known\ndid you mean 'ring'? known: ring, tree",
        ),
        (CNN + "sync:", "f.yaml:2: sync: an empty value must be a mapping\n"),
        (CNN + "sync: {weights: {a.b: x}}", "f.yaml:2: sync.weights.a.b: 'x' must be a number\n"),
        ("workload:\n  kind: mlp", "f.yaml:1: workload.hidden: missing\nadd the key 'hidden'"),
        ("workload: {}", "f.yaml:1: workload.kind: missing\nadd the key 'kind'; known: cnn, mlp"),
        (
            "workload:\n  kind: mpl",
            "f.yaml:2: workload.kind: 'mpl' is not known\ndid you mean 'mlp'? known: mlp, cnn",
        ),
        (
            "workload:\n  kind: cnn\n  depth: 0",
            "f.yaml:3: workload.depth: 0 must be greater than or equal to 1\n",
        ),
        (
            "workload:\n  kind: mlp\n  hidden:\n  - 1\n  - a",
            "f.yaml:5: workload.hidden[1]: 'a' must be a whole number\n",
        ),
        ("[]", "f.yaml:1: [] must be a mapping\n"),
        ("workload: " + "x" * 99, f"f.yaml:1: workload: '{'x' * 56}... must be a mapping\n"),
    ],
)
def test_a_validation_error_is_told_in_plain_words(text: str, said: str) -> None:
    assert description(text).startswith(said)


def test_of_many_errors_five_are_told() -> None:
    told = description(CNN + "".join(f"key{i}: {i}\n" for i in range(9)))
    assert [line for line in told.splitlines() if "unknown key" in line] == [
        f"f.yaml:{i + 2}: key{i}: unknown key" for i in range(5)
    ]
    assert told.endswith("and 4 more")
