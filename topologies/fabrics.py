"""Regular topologies, a model for each builder: what it is built of, and how much of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from twinstep.strict_model import StrictModel
from twinstep.topologies.parts import (
    INTERNAL_LINK,
    MOST_DEVICES,
    MOST_LINKS,
    Count,
    DeviceSpec,
    LinkSpec,
    ProcessorRates,
    unstated_link,
)

_MOST_PORTS = 80
"""The largest even k with k^3/4 hosts that are not too many."""
_MOST_DIMENSIONS = 6


class Built(StrictModel):
    """What the builders of equal hosts have in common."""

    device: DeviceSpec
    """What each device is: `cpu`, a core of the calibrated machine; `cuda`, a GPU of it; or peak rates."""
    cores: Count | None = None
    """Cores of each host; those of the calibrated machine where left out."""
    processor: ProcessorRates | None = None
    """All processors of each host and its memory, by a data sheet: for what ranks offload (`partition.offload`)."""

    _device_link: ClassVar[str] = "internal_link"
    """The key of the link between a device and its host."""

    @model_validator(mode="after")
    def _states_what_lies_between(self) -> Self:
        if self.processor is not None and self._device_link not in self.model_fields_set:
            raise ValueError(unstated_link(self._device_link))
        return self


class OneHost(Built):
    """One host and its devices."""

    _device_link = "link"

    builder: Literal["one_host"]
    """Builds one host with devices."""
    devices: Count
    """How many devices the host has."""
    link: LinkSpec = INTERNAL_LINK
    """The link between each device and the host."""


class Fabric(Built):
    """What the builders of several hosts have in common."""

    devices_per_host: Count = 1
    """How many devices each host has."""
    link: LinkSpec
    """The link of each host to the network."""
    internal_link: LinkSpec = INTERNAL_LINK
    """The link between each device and its host."""

    @abstractmethod
    def _factors(self) -> Mapping[str, int]:
        """Give the counts whose product is the number of hosts, by their names."""

    def _cables(self) -> int:
        """Give the number of links between hosts and switches, where it may grow faster than that of the devices."""
        return 0

    @model_validator(mode="after")
    def _small(self) -> Self:
        factors = {**self._factors(), "devices_per_host": self.devices_per_host}
        devices = math.prod(factors.values())
        links = self._cables() + devices
        for number, noun, most in ((devices, "devices", MOST_DEVICES), (links, "links", MOST_LINKS)):
            if number > most:
                product = " x ".join(f"{factor} {name}" for name, factor in factors.items())
                raise ValueError(f"{product} makes {number} {noun}: give numbers that make at most {most}")
        return self


class Star(Fabric):
    """Hosts around one switch."""

    builder: Literal["star"]
    """Builds hosts that are each linked to one switch."""
    hosts: Count
    """How many hosts there are."""

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": self.hosts}


class Ring(Fabric):
    """Hosts in a cycle, each linked to the next in both directions."""

    builder: Literal["ring"]
    """Builds hosts in a cycle, without a switch: hosts pass on what is not for them."""
    hosts: Annotated[Count, Field(ge=2)]
    """How many hosts there are."""

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": self.hosts}


class FullyConnected(Fabric):
    """Hosts that are linked pairwise."""

    builder: Literal["fully_connected"]
    """Builds hosts with a link between each two of them."""
    hosts: Annotated[Count, Field(ge=2)]
    """How many hosts there are."""

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": self.hosts}

    def _cables(self) -> int:
        return math.comb(self.hosts, 2)


class Torus(Fabric):
    """Hosts on a grid, each linked to its neighbours, with wrap-around."""

    builder: Literal["torus"]
    """Builds a grid of hosts that is closed in each dimension: hosts pass on what is not for them."""
    dimensions: Annotated[
        tuple[Annotated[Count, Field(ge=2)], ...], Field(strict=False, min_length=1, max_length=_MOST_DIMENSIONS)
    ]
    """How many hosts there are along each dimension, e.g. [4, 4, 4]; along one of 2 they share one link."""

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": math.prod(self.dimensions)}


class TwoTier(Fabric):
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

    def _factors(self) -> Mapping[str, int]:
        return {"racks": self.racks, "hosts_per_rack": self.hosts_per_rack}


class FatTree(Fabric):
    """A folded Clos network of three tiers, all of equal switches (Al-Fares, Loukissas, Vahdat, SIGCOMM 2008).

    Switches of k ports make k pods of k/2 edge and k/2 aggregation switches, (k/2)^2 core switches and room for
    k^3/4 hosts; as many links lead up from each switch as down.
    """

    builder: Literal["fat_tree"]
    """Builds three tiers of switches with as much bandwidth between any two of them."""
    link: LinkSpec
    """Every link of the fabric: of each host to its edge switch, and between switches."""
    ports: Annotated[int, Field(ge=2, le=_MOST_PORTS)]
    """How many ports each switch has, an even number: the k of the formulas."""
    hosts: Count | None = None
    """How many hosts there are, on the first edge switches; k^3/4 where left out."""

    @field_validator("ports")
    @classmethod
    def _even(cls, ports: int) -> int:
        if ports % 2:
            raise ValueError(f"half of the ports lead up, so their number is even: give {ports - 1} or {ports + 1}")
        return ports

    @field_validator("hosts")
    @classmethod
    def _fits(cls, hosts: int | None, others: ValidationInfo) -> int | None:
        ports = others.data.get("ports")
        if hosts is not None and ports is not None and hosts > ports**3 // 4:
            room = f"switches of {ports} ports make room for {ports**3 // 4} hosts"
            raise ValueError(f"{room}: give at most so many, or raise ports")
        return hosts

    @property
    def populated(self) -> int:
        """The number of hosts."""
        return self.hosts or self.ports**3 // 4

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": self.populated}


class Rail(Fabric):
    """Hosts of several devices, in which the equal devices of all hosts share a switch: their rail.

    Device i of every host has a network interface (NIC) of its own, and all NICs i are linked to the switch of
    rail i. The devices of one host meet on a switch inside it, as on NVSwitch.
    """

    _device_link = "pcie_link"

    builder: Literal["rail"]
    """Builds hosts with a NIC for each device, a switch for each rail, and spine switches above these."""
    link: LinkSpec
    """The link of each NIC to the switch of its rail."""
    internal_link: LinkSpec = INTERNAL_LINK
    """The link between each device and the switch inside its host."""
    pcie_link: LinkSpec = INTERNAL_LINK
    """The links between each device and its NIC, and between it and its host."""
    uplink: LinkSpec
    """The link of each rail's switch to each spine switch."""
    hosts: Count
    """How many hosts there are."""
    spines: Count = 1
    """How many spine switches there are."""

    def _factors(self) -> Mapping[str, int]:
        return {"hosts": self.hosts}

    def _cables(self) -> int:
        return self.devices_per_host * (3 * self.hosts + self.spines)


class Dragonfly(Fabric):
    """Groups of routers, with all-to-all links inside a group and between groups (Kim et al., ISCA 2008).

    One link joins each pair of groups; the routers of a group have its links to other groups in turn.
    Source: J. Kim, W. Dally, S. Scott, D. Abts, Technology-Driven, Highly-Scalable Dragonfly Topology.
    """

    builder: Literal["dragonfly"]
    """Builds groups of routers: any two routers are at most one global and two local links apart."""
    groups: Count
    """How many groups there are."""
    routers_per_group: Count
    """How many routers each group has."""
    hosts_per_router: Count
    """How many hosts each router has."""
    link: LinkSpec
    """The link of each host to its router."""
    local_link: LinkSpec
    """The link between each two routers of a group."""
    global_link: LinkSpec
    """The link between each two groups."""

    def _factors(self) -> Mapping[str, int]:
        return {
            "groups": self.groups,
            "routers_per_group": self.routers_per_group,
            "hosts_per_router": self.hosts_per_router,
        }

    def _cables(self) -> int:
        hosts = math.prod(self._factors().values())
        return self.groups * math.comb(self.routers_per_group, 2) + math.comb(self.groups, 2) + hosts
