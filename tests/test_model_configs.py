"""Models' config.json files: what they mean, which may be read, and how a mistake in one is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from twinstep.cli import app
from twinstep.errors import InputError
from twinstep.model_configs import shipped_models
from twinstep.scenario import Scenario, json_schema, load_scenario, plan_yaml
from twinstep.workloads import Gpt

DEVICE = {"peak": "312 TFLOP/s", "memory_bandwidth": "2 TB/s", "overhead": "5 us"}
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "hidden_act": "silu",
    "tie_word_embeddings": False, "rms_norm_eps": 1e-05, "rope_scaling": None, "torch_dtype": "bfloat16",
    "eos_token_id": [1, 2],
}  # fmt: skip


def scenario(folder: Path, config: str, *overrides: str, **workload: Any) -> Scenario:
    content = {
        "workload": {"kind": "gpt", "config": config, "context": 128, "batch": 2} | workload,
        "topology": {"builder": "one_host", "devices": 1, "device": DEVICE},
        "run": {"compute": "emulated"},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_scenario(str(path), overrides)


def gpt(folder: Path, config: str, **workload: Any) -> Gpt:
    found = scenario(folder, config, **workload).plan.workload
    assert isinstance(found, Gpt)
    return found


def with_file(folder: Path, config: dict[str, Any], **workload: Any) -> Gpt:
    (folder / "config.json").write_text(json.dumps(config))
    return gpt(folder, "config.json", **workload)


def attention_and_norms(width: int, queries: int, keys: int) -> int:
    """Count the weights of a Llama-like block's attention and of its two norms; queries and keys in columns."""
    return width * queries + 2 * width * keys + queries * width + 2 * width


# Derived by hand, and equal to the totals that the models' pages on the Hub give for their checkpoints.
PUBLISHED = {
    "gpt2": (124_439_808, (50257 + 1024) * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768),
    "llama-3.1-8b": (
        8_030_261_248,
        2 * 128256 * 4096 + 32 * (attention_and_norms(4096, 4096, 1024) + 3 * 4096 * 14336) + 4096,
    ),
    "mistral-7b-v0.1": (
        7_241_732_096,
        2 * 32000 * 4096 + 32 * (attention_and_norms(4096, 4096, 1024) + 3 * 4096 * 14336) + 4096,
    ),
    "mixtral-8x7b": (
        46_702_792_704,
        2 * 32000 * 4096 + 32 * (attention_and_norms(4096, 4096, 1024) + 8 * (3 * 14336 + 1) * 4096) + 4096,
    ),
    "qwen2.5-7b": (
        7_615_616_512,
        2 * 152064 * 3584 + 28 * (attention_and_norms(3584, 3584, 512) + 3584 + 2 * 512 + 3 * 3584 * 18944) + 3584,
    ),
    "qwen1.5-moe-a2.7b": (
        14_315_784_192,
        2 * 151936 * 2048
        + 24 * (attention_and_norms(2048, 2048, 2048) + 3 * 2048 + 60 * (3 * 1408 + 1) * 2048 + (3 * 5632 + 1) * 2048)
        + 2048,
    ),
    "qwen3-30b-a3b": (
        30_532_122_624,
        2 * 151936 * 2048 + 48 * (attention_and_norms(2048, 4096, 512) + 2 * 128 + 128 * (3 * 768 + 1) * 2048) + 2048,
    ),
}


def test_every_shipped_model_has_a_published_count() -> None:
    assert sorted(PUBLISHED) == shipped_models()


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_as_many_parameters_as_published(name: str, tmp_path: Path) -> None:
    published, by_hand = PUBLISHED[name]
    assert by_hand == published
    assert gpt(tmp_path, name).parameter_count == published


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("mixtral-8x7b", 46_702_792_704 - 32 * 6 * 3 * 4096 * 14336),  # 12.9 billion
        ("qwen3-30b-a3b", 3_353_032_704),
        ("llama-3.1-8b", 8_030_261_248),
    ],
)
def test_a_token_meets_the_parameters_of_its_experts(name: str, active: int, tmp_path: Path) -> None:
    assert gpt(tmp_path, name).active_parameter_count == active


def test_a_file_fills_the_workload(tmp_path: Path) -> None:
    found = with_file(tmp_path, LLAMA)
    assert (found.layers, found.heads, found.kv_heads, found.width, found.feed_forward) == (3, 8, 2, 64, 192)
    assert (found.vocabulary, found.gated, found.tied) == (1000, True, False)
    assert (found.norm, found.positions) == ("rms", "rotary")
    assert (found.context, found.batch, found.biases, found.head_norms, found.experts) == (128, 2, "none", False, 0)


def test_keys_beside_it_take_precedence(tmp_path: Path) -> None:
    found = with_file(tmp_path, LLAMA, layers=7, vocabulary=2048, tied=True)
    assert (found.layers, found.vocabulary, found.tied, found.width) == (7, 2048, True, 64)


def test_an_override_may_name_another_model(tmp_path: Path) -> None:
    plan = scenario(tmp_path, "gpt2", "workload.config=llama-3.1-8b", "workload.layers=2").plan
    assert isinstance(plan.workload, Gpt)
    assert (plan.workload.layers, plan.workload.width) == (2, 4096)


def test_the_plan_is_complete_without_the_file(tmp_path: Path) -> None:
    first = scenario(tmp_path, "mixtral-8x7b")
    written = tmp_path / "elsewhere.yaml"
    written.write_text(plan_yaml(first.plan))
    assert "config" not in yaml.safe_load(written.read_text())["workload"]
    assert load_scenario(str(written)).plan == first.plan


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_key_value_heads": None}, {"kv_heads": None}),
        ({"head_dim": 16}, {"head_width": 16}),
        ({"model_type": "mistral", "sliding_window": 128}, {"kv_heads": 2}),
        ({"model_type": "qwen2"}, {"biases": "qkv"}),
        ({"model_type": "qwen2", "tie_word_embeddings": True}, {"tied": True}),
        ({"model_type": "qwen3", "head_dim": 16}, {"head_norms": True, "biases": "none"}),
        ({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False}, {"context": 128}),
        (
            {"model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
             "shared_expert_intermediate_size": 128},
            {"experts": 4, "experts_per_token": 2, "feed_forward": 96, "shared_expert": 128},
        ),
    ],
)  # fmt: skip
def test_types_differ_in_what_keys_mean(config: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = with_file(tmp_path, LLAMA | config)
    assert {key: getattr(found, key) for key in expected} == expected


def refusal(folder: Path, content: str, **workload: Any) -> str:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        scenario(folder, "config.json", **workload)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "gemma"}, ["model_type: 'gemma' is not known", "known: gpt2, llama, mistral"]),
        ({"model_type": None}, ["model_type"]),
        ({"hidden_size": "64"}, ["hidden_size: '64' must be a whole number"]),
        ({"hidden_size": True}, ["hidden_size: True must be a whole number"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers: 0 must be greater than or equal to 1"]),
        ({"hidden_act": "relu"}, ["hidden_act: 'relu' is not known", "known: silu"]),
        ({"attention_bias": True}, ["attention_bias", "such biases are not described", "remove config"]),
        ({"model_type": "mistral", "num_key_value_heads": None}, ["num_key_value_heads", "must be a whole number"]),
        (
            {"model_type": "qwen3_moe", "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
             "moe_intermediate_size": 8, "mlp_only_layers": [0]},
            ["mlp_only_layers", "blocks without experts"],
        ),
    ],
)  # fmt: skip
def test_odd_values_are_named(changes: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    message = refusal(tmp_path, json.dumps(LLAMA | changes, indent=2))
    assert "config.json:" in message
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize("key", ["model_type", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"])
def test_missing_keys_are_named(key: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, json.dumps({name: value for name, value in LLAMA.items() if name != key}))
    assert f"{key}: missing" in message
    assert f"add the key {key}" in message.replace("'", "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds nothing"),
        ("[]", "mapping"),
        ('{"model_type": "llama"', "not YAML"),
        ('{"model_type": "llama", "model_type": "gpt2"}', "model_type"),
        ("[" * 3000 + "]" * 3000, "deep"),
        ('{"a": "' + "x" * 2**20 + '"}', "keep it within"),
    ],
)
def test_what_is_no_config_is_refused(content: str, expected: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, content)
    assert expected in message
    assert "config.json" in message


@pytest.mark.parametrize("name", ["../config.json", "/etc/config.json", "below/../../config.json"])
def test_files_outside_the_scenarios_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    folder = tmp_path / "scenarios"
    folder.mkdir()
    with pytest.raises(InputError, match=r"plan\.yaml:\d+: .*lies outside the scenario's folder"):
        scenario(folder, name)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(InputError, match="lies outside"):
        scenario(folder, "config.json")


def test_unknown_names_are_answered_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no model 'lama-3\.1-8b'\ndid you mean 'llama-3\.1-8b'\?"):
        scenario(tmp_path, "lama-3.1-8b")
    with pytest.raises(InputError, match="no such file"):
        scenario(tmp_path, "missing.json")


def test_attention_that_does_not_look_back_to_all_is_refused(tmp_path: Path) -> None:
    assert gpt(tmp_path, "mistral-7b-v0.1", context=4096).context == 4096
    with pytest.raises(InputError, match="more than the 4096 tokens that attention of this model looks back to"):
        gpt(tmp_path, "mistral-7b-v0.1", context=8192)


def test_positions_end_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"position_table \(1024\) must not be less than context \(2048\)"):
        gpt(tmp_path, "gpt2", context=2048)


def test_config_is_for_gpts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"workload\.config: unknown key"):
        scenario(tmp_path, "gpt2", kind="mlp", hidden=[8], context=1)
    with pytest.raises(InputError, match=r"workload\.config: 3 must be text"):
        scenario(tmp_path, "gpt2", "workload.config=3", layers=1, heads=1, width=8)


def test_the_schema_asks_for_sizes_or_a_config() -> None:
    schema = json.loads(json_schema())["$defs"]["Gpt"]
    assert "layers" not in schema["required"]
    assert schema["anyOf"] == [{"required": ["config"]}, {"required": ["layers", "heads", "width"]}]


def test_check_prints_the_parameters(tmp_path: Path) -> None:
    scenario(tmp_path, "mixtral-8x7b")
    done = CliRunner().invoke(app, ["check", str(tmp_path / "plan.yaml")])
    assert done.exit_code == 0
    assert "46,702,792,704" in done.stdout
    assert "12,879,925,248" in done.stdout
