"""What a topology is made of: pydantic models of devices, links and nodes.

Every model is strict, frozen and documents its fields, so that the JSON schema made from it does too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from twinstep.strict_model import StrictModel
from twinstep.units import BandwidthBytesPerS, DurationS, FlopsPerS, SizeBytes

MOST_DEVICES = 2**17
"""The most devices that a topology may have."""
MOST_LINKS = 2**20
"""The most links that a builder may make, those between devices and their hosts included."""
_LONGEST_NAME = 64

Count = Annotated[int, Field(ge=1, le=MOST_DEVICES)]


def _checked_name(name: str) -> str:
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"not a name: write 1 to {_LONGEST_NAME} printable characters without spaces at the ends")
    return name


class ProcessorRates(StrictModel):
    """What computes, a host's processors or a device, by its peak rates, for the roofline."""

    peak: FlopsPerS
    """Peak rate of floating-point operations, e.g. "10 TFLOP/s"."""
    memory_bandwidth: BandwidthBytesPerS
    """Peak bandwidth of its memory, e.g. "1 TB/s"."""
    overhead: DurationS | None = None
    """Time that each kernel costs whatever its size, e.g. "5 us"; none where it is left out."""
    memory: SizeBytes | None = None
    """Size of its memory, e.g. "80 GiB": a plan that needs more is refused; none is where it is left out."""


class DeviceRates(ProcessorRates):
    """A device by its peak rates, for the roofline."""

    fragmentation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of what the device's allocator reserves that it cannot use at the peak, e.g. 0.1; counted as memory that the
    plan needs."""


def _device_kind(value: Any) -> str:
    return "rates" if isinstance(value, dict | DeviceRates) else "kind"


DeviceSpec = Annotated[
    Annotated[Literal["cpu", "cuda"], Tag("kind")] | Annotated[DeviceRates, Tag("rates")],
    Discriminator(_device_kind),
]
"""`cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates."""


class _Rates(StrictModel):
    bandwidth: BandwidthBytesPerS
    """Bandwidth in each direction, e.g. "100 Gb/s"; in both together where the link is half duplex."""
    latency: DurationS
    """Time from one end to the other for an empty message, e.g. "1 us"."""


class LinkSpec(_Rates):
    """What a link can carry."""

    duplex: Literal["full", "half"] = "full"
    """`full` carries the bandwidth in each direction at once; `half` shares it between the two."""


INTERNAL_LINK = LinkSpec.model_validate({"bandwidth": "100 Gb/s", "latency": "1 us"})
"""The link between a device and its host where a topology gives none."""


def unstated_link(key: str) -> str:
    """Say that a host has a processor, and nothing was said of the link to its devices."""
    return (
        f"processor needs {key}, over which devices and their host copy: state it from a data sheet, e.g. "
        f"{key}: {{bandwidth: 32 GB/s, latency: 1 us}}"
    )


class GraphLink(_Rates):
    """A link between two nodes."""

    source: str
    """The name of the node at one end."""
    target: str
    """The name of the node at the other end."""
    duplex: Literal["full", "half", "one_way"] = "full"
    """`full` carries the bandwidth in each direction at once; `half` shares it; `one_way` leads to target alone."""


class _Named(StrictModel):
    name: str
    """What links and messages call the node; no two nodes share a name."""

    _name = field_validator("name")(_checked_name)


class HostNode(_Named):
    """A host: cores, and the devices that name it."""

    kind: Literal["host"]
    """The node is a host."""
    cores: Count | None = None
    """Cores of the host; those of the calibrated machine where left out."""
    processor: ProcessorRates | None = None
    """All processors of the host and its memory, by a data sheet: for what ranks offload (`partition.offload`)."""


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


class NicNode(_Named):
    """A network interface: it passes on what its host's devices send and receive."""

    kind: Literal["nic"]
    """The node is a network interface; its links, those to its host or devices too, are listed."""
    host: str
    """The name of the host that the interface belongs to."""


class SwitchNode(_Named):
    """A switch: it only passes on."""

    kind: Literal["switch"]
    """The node is a switch."""


class StorageNode(_Named):
    """Storage: an end of traffic, on which no rank runs."""

    kind: Literal["storage"]
    """The node is storage."""


Node = Annotated[HostNode | DeviceNode | NicNode | SwitchNode | StorageNode, Field(discriminator="kind")]
