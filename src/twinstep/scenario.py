"""Scenario files: find one, read it strictly, apply overrides, and give its plan and topology.

A scenario is named by its path or, for those that are shipped, by its name.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from twinstep import strict_yaml
from twinstep.disturbances import BackgroundFlow
from twinstep.errors import InputError
from twinstep.model_configs import with_config
from twinstep.overrides import override, set_value, variation
from twinstep.plan import Plan
from twinstep.processors import check_processors
from twinstep.strict_yaml import Document, did_you_mean
from twinstep.sweep import Axis, Setting, Sweep, value_words
from twinstep.topologies import DeviceSpec, Topology, TopologyError, in_place, load, nearest_ranks
from twinstep.yaml_composer import KeyPath, cut

SHIPPED = Path(__file__).parent / "scenarios"


class ScenarioFile(Plan):
    """A scenario: one question, its plan, and what of the plan is to vary."""

    sweep: Sweep | None = None
    """Values of keys of the plan, for `twinstep sweep`; all other commands take the plan as it stands."""


class _SweepSection(BaseModel):
    """The section of a scenario that sweeps it, whatever the others hold."""

    sweep: Sweep | None = None


class SweptFile(NamedTuple):
    """What a sweep needs to know of a scenario before it loads its points."""

    name: str
    question: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A plan with its name and its topology graph."""

    name: str
    plan: Plan
    """Complete in itself: a topology file is replaced by what it says."""
    topology: Topology

    @property
    def hosts(self) -> tuple[str, ...]:
        """Name the hosts that the plan's ranks are on."""
        return tuple(dict.fromkeys(self.topology.device_hosts[index] for index in self.plan.devices))

    @property
    def device_specs(self) -> tuple[DeviceSpec, ...]:
        """Give each kind of device that the plan's ranks have, once."""
        return _device_specs(self.plan, self.topology)

    @property
    def emulates_calibrated_devices(self) -> bool:
        """Tell whether the executor needs a profile: for devices that were measured, and pass their times idly."""
        return self.plan.run.compute == "emulated" and any(isinstance(spec, str) for spec in self.device_specs)


def _device_specs(plan: Plan, topology: Topology) -> tuple[DeviceSpec, ...]:
    return tuple(dict.fromkeys(topology.device_profiles[index] for index in plan.devices))


def shipped_scenarios() -> list[str]:
    """Name the scenarios that come with twinstep."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_scenario(name_or_path: str, overrides: Sequence[str] = (), settings: Sequence[Setting] = ()) -> Scenario:
    """Load a scenario; each override is `key.path=value`, with the value written as in YAML; settings come after them.

    Raises InputError, with file, line, value and remedy, for whatever is wrong with it.
    """
    path = _find(name_or_path)
    document = _read(path, overrides)
    for key, value in settings:
        document = set_value(document, key, value, f"{key}={cut(value_words(value))}")
    document = with_config(document, path.parent)
    try:
        file = ScenarioFile.model_validate(document.data)
    except ValidationError as error:
        raise strict_yaml.describe_validation(error, document, ScenarioFile) from None
    topology = load(file.topology, path.parent, document=document)
    parts = {name: getattr(file, name) for name in Plan.model_fields}
    plan = Plan.model_construct(**parts | {"topology": in_place(file.topology, path.parent)})
    _check_devices(plan, topology, document)
    _check_shared_memory(plan, topology, document)
    check_processors(plan, topology, document)
    _check_names(plan, topology, document)
    _check_neighbours(plan, topology, document)
    return Scenario(path.stem, plan, topology)


def load_sweep(name_or_path: str, overrides: Sequence[str] = (), varied: Sequence[str] = ()) -> SweptFile:
    """Read what a scenario sweeps; each of `varied` is `key.path=value,value`, and takes the place of the file's.

    A key that an override sets does not vary.
    Raises InputError where that cannot be read, or there is nothing.
    """
    path = _find(name_or_path)
    document = _read(path, overrides)
    try:
        section = _SweepSection.model_validate(document.data).sweep
    except ValidationError as error:
        raise strict_yaml.describe_validation(error, document, ScenarioFile) from None
    changes: dict[str, list[Any]] = {}
    for key, values in map(variation, varied):
        if key in changes:
            raise InputError(f"{key} is varied twice", remedy=f"give all its values to one --vary {key}=...")
        changes[key] = values
    listed = section.varied(changes, [text.partition("=")[0].strip() for text in overrides]) if section else changes
    if not listed:
        remedy = "add a section `sweep:`, or give for example --vary partition.data=2,4,8"
        raise InputError("there is nothing to sweep", remedy=remedy, place=document.place)
    try:
        axes = Sweep.model_validate(listed).axes
    except ValidationError as error:
        raise strict_yaml.describe_validation(error, Document(changes, {}, f"--vary on {document.place}")) from None
    _check_keys([key for axis in axes for key in axis.keys], overrides, document)
    return SweptFile(path.stem, str(document.data.get("question", "")), axes)


def _check_keys(keys: Sequence[str], overrides: Sequence[str], document: Document) -> None:
    """Refuse a key that varies as a whole while something in it is set."""
    fixed = [text.partition("=")[0].strip() for text in overrides]
    others = [*keys, *fixed]
    for key in keys:
        if key in fixed:
            raise InputError(f"{key} is varied, and set", remedy="leave one of the two out", place=document.place)
        inner = next((other for other in others if other.startswith(f"{key}.")), None)
        if inner:
            problem = f"{key} varies as a whole, so {inner} would be overwritten"
            raise InputError(problem, remedy=f"put it into the values of {key}", place=document.place)


def _read(path: Path, overrides: Sequence[str]) -> Document:
    document = strict_yaml.read(path)
    for text in overrides:
        document = override(document, text)
    return document


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix or len(path.parts) > 1:
        return path
    shipped = shipped_scenarios()
    if name_or_path in shipped:
        return SHIPPED / f"{name_or_path}.yaml"
    close = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    remedy = f"{hint}Give the path of a .yaml file or one of: {', '.join(shipped)}"
    raise InputError(f"there is no scenario {cut(repr(name_or_path))}", remedy=remedy)


_DEGREES = ("features", "tensor", "context", "pipeline")
"""Degrees that multiply the ranks, beside `data`."""


def _check_devices(plan: Plan, topology: Topology, document: Document) -> None:
    """Hold the ranks that the partition asks for against the devices that the topology has."""
    if max(plan.devices) >= len(topology.devices):
        partition = plan.partition
        split = ["data", *(name for name in _DEGREES if getattr(partition, name) > 1)]
        degrees = " x ".join(split)
        product = f" = {' x '.join(str(getattr(partition, name)) for name in split)}" if len(split) > 1 else ""
        lower = f"partition.{max(split, key=lambda name: int(getattr(partition, name)))}"
        if plan.sync.server_count:
            product = f" = {partition.data} and sync.servers.count = {plan.sync.server_count}"
            lower = "partition.data or sync.servers.count"
        more = "topology.devices" if len(topology.hosts) == 1 else "topology.hosts"
        raise InputError(
            f"partition.{degrees}{product} asks for {max(plan.devices) + 1} ranks, but the topology has "
            f"{len(topology.devices)} devices",
            remedy=f"lower {lower}, or give the topology more devices (for example by --set {more}=...)",
            place=document.place,
            line=document.line_of(("partition", "data")),
        )
    if plan.run.compute == "emulated":
        return
    kinds = _device_specs(plan, topology)
    if "cuda" in kinds and plan.run.stragglers:
        raise InputError(
            "run.stragglers slows a rank down, but a real GPU cannot be slowed down",
            remedy="set run.compute to emulated, or remove run.stragglers",
            place=document.place,
            line=document.line_of(("run", "stragglers")),
        )
    if not all(isinstance(kind, str) for kind in kinds):
        raise InputError(
            "run.compute is real, but the topology's devices are given by their rates and exist only in the model",
            remedy="set run.compute to emulated, or topology.device to cpu or cuda",
            place=document.place,
            line=document.line_of(("run", "compute")),
        )


def _check_neighbours(plan: Plan, topology: Topology, document: Document) -> None:
    """Refuse a topology in which gossip between the nearest would not reach everybody."""
    if plan.sync.neighbours == "topology":
        try:
            nearest_ranks(topology, plan.devices)
        except TopologyError as error:
            line = document.line_of(("sync", "neighbours"))
            problem = f"sync.neighbours is topology: {error.problem}"
            raise InputError(problem, remedy=error.remedy, place=document.place, line=line) from None


def _check_shared_memory(plan: Plan, topology: Topology, document: Document) -> None:
    """Hold workers that share memory against the host that they must have in common."""
    if plan.sync.method != "shared_memory":
        return
    hosts = len({topology.device_hosts[index] for index in plan.devices})
    line = document.line_of(("sync", "method"))
    if hosts > 1:
        raise InputError(
            f"sync.method shared_memory needs all workers on one host, and the {plan.ranks} workers are on {hosts}",
            remedy="lower partition.data to the devices of one host, or set topology.builder to one_host",
            place=document.place,
            line=line,
        )
    if plan.run.compute == "real" and "cuda" in _device_specs(plan, topology):
        raise InputError(
            "sync.method shared_memory keeps the parameters in the host's memory, and the devices are GPUs",
            remedy="set topology.device to cpu, or run.compute to emulated",
            place=document.place,
            line=line,
        )


def _check_names(plan: Plan, topology: Topology, document: Document) -> None:
    """Hold the nodes and links that the run names against the topology."""
    named: list[tuple[KeyPath, Sequence[str], Sequence[str]]] = []
    for index, change in enumerate(plan.run.link_changes):
        named.append((("link_changes", index), (change.source, change.target), topology.nodes))
    for index, other in enumerate(plan.run.background):
        possible = topology.nodes if isinstance(other, BackgroundFlow) else topology.devices
        named.append((("background", index), other.ends, possible))
    for path, names, known in named:
        for name in names:
            if name not in known:
                line = document.line_of(("run", *path))
                raise InputError(
                    f"there is no {cut(repr(name))}", remedy=did_you_mean(name, known), place=document.place, line=line
                )
    for index, change in enumerate(plan.run.link_changes):
        if not topology.graph.has_edge(change.source, change.target):
            raise InputError(
                f"no link leads from {change.source!r} to {change.target!r}",
                remedy="name the two ends of a link; `twinstep topology show` lists them",
                place=document.place,
                line=document.line_of(("run", "link_changes", index)),
            )


def plan_yaml(plan: Plan) -> str:
    """Write a plan as a scenario file that means the same."""
    content = plan.model_dump(mode="json", exclude_none=True)
    return yaml.dump(content, Dumper=_PlanDumper, sort_keys=False, allow_unicode=True, width=110)


class _PlanDumper(yaml.SafeDumper):
    """Writes what strict YAML reads as the same: text such as 1e5, too, which YAML 1.1 takes for text, is quoted."""


_PlanDumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile("[-+.0-9][-+.0-9eEo]*$"), list("-+.0123456789"))


def json_schema() -> str:
    """Give the JSON Schema of scenario files, for editors to complete and check them."""
    schema = ScenarioFile.model_json_schema()
    schema["title"] = "twinstep scenario"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"
