"""What a topology file may say: a builder and its keys, or nodes and links one by one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from twinstep.strict_model import StrictModel
from twinstep.topologies.fabrics import Dragonfly, FatTree, FullyConnected, OneHost, Rail, Ring, Star, Torus, TwoTier
from twinstep.topologies.parts import (
    MOST_DEVICES,
    DeviceNode,
    DeviceSpec,
    GraphLink,
    HostNode,
    Node,
    unstated_link,
)

__all__ = ["BuilderSpec", "DeviceSpec", "Graph", "TopologyFile", "TopologySpec"]

_MOST_LISTED_LINKS = 65536


class Graph(StrictModel):
    """Nodes and links, one by one."""

    builder: Literal["graph"]
    """Builds what the two lists say."""
    nodes: Annotated[tuple[Node, ...], Field(strict=False, max_length=MOST_DEVICES)]
    """Hosts, devices, NICs, switches and storage; the order of the devices is that of the ranks."""
    links: Annotated[tuple[GraphLink, ...], Field(strict=False, max_length=_MOST_LISTED_LINKS)] = ()
    """The links, but for those between devices and their hosts, which the devices bring along."""

    @model_validator(mode="after")
    def _states_what_lies_between(self) -> Graph:
        described = {node.name for node in self.nodes if isinstance(node, HostNode) and node.processor is not None}
        for node in self.nodes:
            if isinstance(node, DeviceNode) and node.host in described and "link" not in node.model_fields_set:
                raise ValueError(f"device {node.name!r}: its host's {unstated_link('link')}")
        return self


class TopologyFile(StrictModel):
    """A topology that another file describes."""

    file: Annotated[str, Field(min_length=1, max_length=4096)]
    """A shipped topology by its name, e.g. `star-4x10G`, or the path of a .yaml file below the scenario."""


BuilderSpec = Annotated[
    OneHost | Star | Ring | FullyConnected | Torus | TwoTier | FatTree | Rail | Dragonfly | Graph,
    Field(discriminator="builder"),
]
"""A topology described in place."""


def _topology_kind(value: Any) -> str:
    refers = isinstance(value, TopologyFile) or (isinstance(value, dict) and "file" in value)
    return "by_reference" if refers else "in_place"


TopologySpec = Annotated[
    Annotated[BuilderSpec, Tag("in_place")] | Annotated[TopologyFile, Tag("by_reference")],
    Discriminator(_topology_kind),
]
"""What a scenario says of its topology: a builder call, or a file."""
