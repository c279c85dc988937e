"""What a topology file may say: pydantic models, one a builder.

Every model is strict, frozen and documents its fields, so that the JSON schema made from it does too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from twinstep.units import BandwidthBytesPerS, DurationS, FlopsPerS

MOST_DEVICES = 4096
_MOST_LINKS = 65536
_LONGEST_NAME = 64

Count = Annotated[int, Field(ge=1, le=MOST_DEVICES)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


def _checked_name(name: str) -> str:
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"not a name: write 1 to {_LONGEST_NAME} printable characters without spaces at the ends")
    return name


class DeviceRates(_Model):
    """A device by its peak rates, for the roofline."""

    peak: FlopsPerS
    """Peak rate of floating-point operations, e.g. "10 TFLOP/s"."""
    memory_bandwidth: BandwidthBytesPerS
    """Peak bandwidth of the device's memory, e.g. "1 TB/s"."""
    overhead: DurationS | None = None
    """Time that each kernel costs whatever its size, e.g. "5 us"; none where it is left out."""


def _device_kind(value: Any) -> str:
    return "rates" if isinstance(value, dict | DeviceRates) else "kind"


DeviceSpec = Annotated[
    Annotated[Literal["cpu", "cuda"], Tag("kind")] | Annotated[DeviceRates, Tag("rates")],
    Discriminator(_device_kind),
]
"""`cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates."""


class LinkSpec(_Model):
    """What a link can carry, in each direction."""

    bandwidth: BandwidthBytesPerS
    """Bandwidth in each direction, e.g. "100 Gb/s"."""
    latency: DurationS
    """Time from one end to the other for an empty message, e.g. "1 us"."""


INTERNAL_LINK = LinkSpec.model_validate({"bandwidth": "100 Gb/s", "latency": "1 us"})
"""The link between a device and its host where a topology gives none."""


class Built(_Model):
    """What the builders of equal hosts have in common."""

    device: DeviceSpec
    """What each device is: `cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates."""
    cores: Count | None = None
    """Cores of each host; those of the calibrated machine where left out."""


class OneHost(Built):
    """One host and its devices."""

    builder: Literal["one_host"]
    """Builds one host with devices."""
    devices: Count
    """How many devices the host has."""
    link: LinkSpec = INTERNAL_LINK
    """The link between each device and the host."""


class _Fabric(Built):
    devices_per_host: Count = 1
    """How many devices each host has."""
    link: LinkSpec
    """The link of each host to the network."""
    internal_link: LinkSpec = INTERNAL_LINK
    """The link between each device and its host."""


def _bounded(**factors: int) -> None:
    """Refuse a product of counts that is too large."""
    devices = 1
    for factor in factors.values():
        devices *= factor
    if devices > MOST_DEVICES:
        product = " x ".join(f"{factor} {name}" for name, factor in factors.items())
        raise ValueError(f"{product} makes {devices} devices: give numbers that make at most {MOST_DEVICES}")


class Star(_Fabric):
    """Hosts around one switch."""

    builder: Literal["star"]
    """Builds hosts that are each linked to one switch."""
    hosts: Count
    """How many hosts there are."""

    @model_validator(mode="after")
    def _small(self) -> Self:
        _bounded(hosts=self.hosts, devices_per_host=self.devices_per_host)
        return self


class Ring(_Fabric):
    """Hosts in a cycle, each linked to the next in both directions."""

    builder: Literal["ring"]
    """Builds hosts in a cycle, without a switch: hosts pass on what is not for them."""
    hosts: Annotated[Count, Field(ge=2)]
    """How many hosts there are."""

    @model_validator(mode="after")
    def _small(self) -> Self:
        _bounded(hosts=self.hosts, devices_per_host=self.devices_per_host)
        return self


class TwoTier(_Fabric):
    """Racks of hosts around a switch each, and these around a spine.

    Where `hosts_per_rack` links carry more than the uplink, the fabric is oversubscribed by their ratio.
    """

    builder: Literal["two_tier"]
    """Builds racks with a switch each, joined by one more switch."""
    racks: Count
    """How many racks there are."""
    hosts_per_rack: Count
    """How many hosts each rack has."""
    uplink: LinkSpec
    """The link of each rack's switch to the spine."""

    @model_validator(mode="after")
    def _small(self) -> Self:
        _bounded(racks=self.racks, hosts_per_rack=self.hosts_per_rack, devices_per_host=self.devices_per_host)
        return self


class _Named(_Model):
    name: str
    """What links and messages call the node; no two nodes share a name."""

    _name = field_validator("name")(_checked_name)


class HostNode(_Named):
    """A host: cores, and the devices that name it."""

    kind: Literal["host"]
    """The node is a host."""
    cores: Count | None = None
    """Cores of the host; those of the calibrated machine where left out."""


class DeviceNode(_Named):
    """A device, linked to its host."""

    kind: Literal["device"]
    """The node is a device; ranks are given to devices in the order of this list."""
    host: str
    """The name of the host that the device belongs to."""
    device: DeviceSpec
    """What the device is: `cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates."""
    link: LinkSpec = INTERNAL_LINK
    """The link between the device and its host."""


class SwitchNode(_Named):
    """A switch: it only passes on."""

    kind: Literal["switch"]
    """The node is a switch."""


class GraphLink(LinkSpec):
    """A link between two nodes."""

    source: str
    """The name of the node at one end."""
    target: str
    """The name of the node at the other end."""
    duplex: Literal["full", "one_way"] = "full"
    """`full` carries the bandwidth in each direction at once; `one_way` from source to target alone."""


Node = Annotated[HostNode | DeviceNode | SwitchNode, Field(discriminator="kind")]


class Graph(_Model):
    """Nodes and links, one by one."""

    builder: Literal["graph"]
    """Builds what the two lists say."""
    nodes: Annotated[tuple[Node, ...], Field(strict=False, max_length=4 * MOST_DEVICES)]
    """Hosts, devices and switches; the order of the devices is that of the ranks."""
    links: Annotated[tuple[GraphLink, ...], Field(strict=False, max_length=_MOST_LINKS)] = ()
    """The links, but for those between devices and their hosts, which the devices bring along."""


class TopologyFile(_Model):
    """A topology that another file describes."""

    file: Annotated[str, Field(min_length=1, max_length=4096)]
    """A shipped topology by its name, e.g. `star-4x10G`, or the path of a .yaml file below the scenario."""


BuilderSpec = Annotated[OneHost | Star | Ring | TwoTier | Graph, Field(discriminator="builder")]
"""A topology described in place."""


def _topology_kind(value: Any) -> str:
    refers = isinstance(value, TopologyFile) or (isinstance(value, dict) and "file" in value)
    return "by_reference" if refers else "in_place"


TopologySpec = Annotated[
    Annotated[BuilderSpec, Tag("in_place")] | Annotated[TopologyFile, Tag("by_reference")],
    Discriminator(_topology_kind),
]
"""What a scenario says of its topology: a builder call, or a file."""
