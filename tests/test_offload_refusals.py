"""The optimizer's state on the host: what fits with it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.offloaded_plans import plan_of, plan_without

from twinstep.errors import InputError
from twinstep.memory import check_memory, smallest_change
from twinstep.plan import Plan
from twinstep.programs import Hybrid
from twinstep.scenario import Scenario, load_scenario
from twinstep.topologies import build

TEN_BILLION = {"layers": 50, "heads": 32, "width": 4096, "context": 1024, "vocabulary": 50257, "batch": 10}
"""DeepSpeed's tutorial on ZeRO-Offload trains this GPT-2, blocks recomputed, on one V100 of 32 GB (docs/_tutorials/
zero-offload.md in deepspeedai/DeepSpeed); its sequences' length is not said there. On the device are 16-bit numbers,
so 32 GB stand for 64 GB of float32."""
THIRTEEN_BILLION = TEN_BILLION | {"layers": 65, "batch": 4}
"""13 billion on the same device is the abstract's claim (Ren et al., 2021); of what shape is not said there."""


@pytest.mark.parametrize(("workload", "billions"), [(TEN_BILLION, 10), (THIRTEEN_BILLION, 13)])
def test_models_of_the_paper_fit_with_offload_alone(workload: dict[str, Any], billions: int) -> None:
    device = {"memory": "64 GB"}
    processor = {"memory": "1.5 TB"}
    fits = plan_of(workload=workload, device=device, processor=processor, recompute="full")
    assert fits.training.parameter_count == pytest.approx(billions * 1e9, rel=0.05)  # type: ignore[union-attr]
    check_memory(scenario_of(fits))
    with pytest.raises(InputError, match=r"optimizer state") as refused:
        check_memory(scenario_of(plan_without(fits)))
    assert "set partition.offload to optimizer" in refused.value.remedy


def scenario_of(plan: Plan) -> Scenario:
    return Scenario("made-up", plan, build(plan.topology))  # type: ignore[arg-type]


def test_a_host_that_is_too_small_is_refused() -> None:
    need = 4 * Hybrid(plan_of(data=4)).host_memory_bytes(0)["total"]
    check_memory(scenario_of(plan_of(data=4, processor={"memory": f"{need} B"})))
    with pytest.raises(InputError, match=r"host 'host0' would need .* for what its 4 ranks offload") as refused:
        check_memory(scenario_of(plan_of(data=4, processor={"memory": f"{need - 1} B"})))
    assert "partition.sharding" in refused.value.remedy


def test_offload_is_no_remedy_where_hosts_are_too_small() -> None:
    plan = plan_of("none", processor={"memory": "1 MiB"}, device={"memory": "1 MiB"})
    assert smallest_change(plan, build(plan.topology)) is None  # type: ignore[arg-type]


REFUSED = [
    ({"context": 2}, {}, "partition.context of 1"),
    ({"data": 4, "sharding": "parameters", "sharding_copies": 2}, {}, "partition.sharding_copies of 1"),
    ({"data": 2, "expert": 2}, {"experts": 4}, "partition.expert of 1"),
    ({}, {"experts": 4}, "without experts"),
    ({"pipeline": 2, "chunks": 2, "microbatches": 4, "schedule": "zero_bubble_v"}, {}, "two ranks"),
    ({}, {"optimizer": {"kind": "sgd"}}, "set workload.optimizer.kind to adamw or momentum"),
]


@pytest.mark.parametrize(("partition", "workload", "words"), REFUSED, ids=str)
def test_what_it_does_not_go_with_is_refused(partition: dict[str, Any], workload: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_of(workload=workload, **partition)


SCENARIO = Path(__file__).parents[1] / "scenarios" / "offload-13b.yaml"


def contents(**topology: Any) -> dict[str, Any]:
    """Give the shipped scenario with another topology; None leaves a key out."""
    content: dict[str, Any] = yaml.safe_load(SCENARIO.read_text(encoding="utf-8"))
    content["topology"] = {key: value for key, value in (content["topology"] | topology).items() if value is not None}
    return content


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ({"processor": None}, "host 'host0' of the topology states no processor"),
        ({"processor": {"peak": "1 TFLOP/s", "memory_bandwidth": "1 GB/s"}}, "states no memory of its processor"),
        (
            {"processor": {"peak": "1 TFLOP/s", "memory_bandwidth": "1 GB/s", "memory": "1 TB", "fragmentation": 0.1}},
            r"topology\.processor\.fragmentation: unknown key\nknown: peak, memory_bandwidth, overhead, memory$",
        ),
        ({"link": None}, "processor needs link, over which devices and their host copy"),
    ],
    ids=str,
)
def test_what_hosts_do_not_state_is_named(topology: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "made-up.yaml"
    path.write_text(yaml.safe_dump(contents(**topology), sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match=words) as refused:
        load_scenario(str(path))
    assert "made-up.yaml" in str(refused.value)


@pytest.mark.parametrize("key", ["run.compute=real", "run.backend=emulated"])
def test_it_is_predicted_only(key: str) -> None:
    with pytest.raises(InputError, match=r"partition\.offload optimizer is predicted only"):
        load_scenario("offload-13b", [key])


@pytest.mark.parametrize("command", ["measure", "compare"])
def test_nothing_executes_it(command: str, run_cli: Callable[..., Any]) -> None:
    ended = run_cli(command, "offload-13b")
    assert ended.code == 2
    assert "can only be predicted: partition.offload is optimizer" in " ".join(ended.err.split())


def test_it_has_no_trace(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    ended = run_cli("export", "offload-13b", "--out", str(tmp_path))
    assert ended.code == 2
    assert "has no trace" in ended.err


def test_check_tells_what_the_host_holds(run_cli: Callable[..., Any]) -> None:
    out = " ".join(run_cli("check", "offload-13b").out.split())
    assert "memory of host0 for its rank" in out
    assert "copies to host, a step" in out
