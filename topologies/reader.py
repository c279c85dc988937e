"""From a file or a scenario's `topology:` section to a topology.

A scenario reaches shipped topologies by name, and files in or below its own folder; nothing else, so that a
scenario from elsewhere cannot read the rest of the disk.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from twinstep.errors import InputError
from twinstep.folders import inside
from twinstep.strict_yaml import Document, describe_validation, did_you_mean, read
from twinstep.topologies.builders import build
from twinstep.topologies.graph import Topology, TopologyError, natural_order
from twinstep.topologies.importers import SUFFIXES, read_import
from twinstep.topologies.specification import BuilderSpec, TopologyFile, TopologySpec
from twinstep.yaml_composer import KeyPath

_SHIPPED = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml", *SUFFIXES)


def shipped() -> list[str]:
    """Give the names of the topologies that come with twinstep, in natural order.

    >>> "star-4x10G" in shipped()
    True
    """
    return sorted((path.stem for path in _SHIPPED.glob("*.yaml")), key=natural_order)


def load(
    spec: TopologySpec, folder: Path, *, document: Document | None = None, path: KeyPath = ("topology",)
) -> Topology:
    """Build the topology that a scenario asks for.

    `folder` is the scenario's: files are sought in and below it. Where `document`, the scenario, is given,
    messages name its file and the line below `path`, the place of the specification in it.
    Raises InputError where the file is refused or unusable, or the parts of the topology do not fit together.
    """
    try:
        if isinstance(spec, TopologyFile):
            return _read_file(_inside(spec.file, folder))
        return build(spec)
    except TopologyError as error:
        raise _placed(error, document, path) from error


def read_topology(name_or_path: str) -> Topology:
    """Read a shipped topology by its name, or any topology file by its path.

    Raises InputError, naming file and line, where there is none or it cannot be used.
    """
    if name_or_path.endswith(_SUFFIXES):
        return _read_file(Path(name_or_path))
    try:
        return _read_file(_shipped_file(name_or_path))
    except TopologyError as error:
        raise InputError(error.problem, remedy=error.remedy) from error


def in_place(spec: TopologySpec, folder: Path) -> BuilderSpec:
    """Give what a topology file says in place of a reference to it; `folder` is the scenario's.

    Raises InputError where the file is refused or unusable.
    """
    return _read_specification(_inside(spec.file, folder))[0] if isinstance(spec, TopologyFile) else spec


def _read_file(path: Path) -> Topology:
    spec, document = _read_specification(path)
    return load(spec, path.parent, document=document, path=())


def _read_specification(path: Path) -> tuple[BuilderSpec, Document]:
    if path.suffix in SUFFIXES:
        return read_import(path), Document(None, {}, str(path))
    document = read(path)
    try:
        return TypeAdapter(BuilderSpec).validate_python(document.data), document
    except ValidationError as error:
        raise describe_validation(error, document, BuilderSpec) from error


def _shipped_file(name: str) -> Path:
    if name not in shipped():
        remedy = f"{did_you_mean(name, shipped())}; or give a path that ends in {', '.join(_SUFFIXES)}"
        raise TopologyError(f"there is no shipped topology {name!r}", remedy=remedy, path=("file",))
    return _SHIPPED / f"{name}.yaml"


def _inside(name: str, folder: Path) -> Path:
    """Give the file that a scenario in `folder` means; refuse what lies outside."""
    if not name.endswith(_SUFFIXES):
        return _shipped_file(name)
    try:
        return inside(name, folder)
    except InputError as error:
        raise TopologyError(error.problem, remedy=error.remedy, path=("file",)) from error


def _placed(error: TopologyError, document: Document | None, path: KeyPath) -> InputError:
    if document is None:
        return error
    line = document.line_of((*path, *error.path))
    return InputError(error.problem, remedy=error.remedy, place=document.place, line=line)
