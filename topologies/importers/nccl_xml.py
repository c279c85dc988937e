"""NCCL's description of a machine: the XML that it writes where NCCL_TOPO_DUMP_FILE is set.

    <system version="1">
      <cpu numaid="0" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="106" host_hash="0x1">
        <pci busid="0000:16:00.0" class="0x060400" link_speed="16.0 GT/s PCIe" link_width="16">   a bridge
          <pci busid="0000:18:00.0" class="0x030200" link_speed=... link_width=...>
            <gpu dev="0" sm="80" rank="0" gdr="1">
              <nvlink target="0000:c5:00.0" count="2" tclass="0x068000"/>
          <pci busid="0000:19:00.0" class="0x020000" link_speed=... link_width=...>
            <nic> <net name="mlx5_0" dev="0" speed="200000" latency="0" gdr="1"/>                  Mbit/s, us

Bandwidths are those of NCCL (`nccl_numbers`), latencies its time of a step from GPU to GPU shared out over the
links of the way. Processors with the same `host_hash` are one host. All NICs hang on one switch, `network`, since
the file does not say what lies beyond them. A NIC with gdr="1" is linked to the GPUs that it is nearest to, of
several equally near ones each GPU to one in turn; without gdr traffic goes through the host.
"""

from __future__ import annotations

from collections import Counter

from twinstep.errors import InputError
from twinstep.topologies.importers import nccl_numbers
from twinstep.topologies.importers.gpu_host import MOST_GPUS, Gpu, MeetingPoint, graph_of
from twinstep.topologies.importers.nccl_links import network_of, nvlinks_of, to_host_bytes_per_s
from twinstep.topologies.importers.nccl_machine import (
    REMEDY,
    FoundGpu,
    FoundNic,
    Machine,
    Way,
    decimal_of,
    integer_of,
    refused,
    text_of,
)
from twinstep.topologies.importers.source import Element, parse_xml
from twinstep.topologies.specification import Graph
from twinstep.yaml_composer import cut


def read(text: str, place: str) -> Graph:
    """Make the specification of what NCCL found; GPUs are `device: cuda`, in the order of their ranks.

    `place` is what messages call the file. Raises InputError naming line, attribute and remedy.
    """
    root = parse_xml(text, place)
    if root.tag != "system":
        raise refused(root, f"begins with {cut(repr(root.tag))}, not with <system>", place)
    machine = Machine(place, _bridge_names(root))
    for processor in root.children:
        if processor.tag == "cpu":
            _add_processor(machine, processor)
    machine.gpus.sort(key=lambda gpu: gpu.rank)
    used = {gpu.way.host for gpu in machine.gpus}
    machine.nics = [nic for nic in machine.nics if nic.way.host in used]
    _check(machine, root)
    gpus = [Gpu(gpu.name, gpu.way.host, to_host_bytes_per_s(gpu, place), gpu.way.points) for gpu in machine.gpus]
    nics = {nic.name: nic.way.host for nic in machine.nics}
    return graph_of(gpus, nvlinks_of(machine), network_of(machine), nics, place)


def _bridge_names(root: Element) -> dict[int, str]:
    depths: list[tuple[int, Element]] = []

    def descend(element: Element, depth: int) -> None:
        if element.tag == "pci" and any(child.tag == "pci" for child in element.children):
            depths.append((depth, element))
        for child in element.children:
            descend(child, depth + 1)

    descend(root, 0)
    deepest_first = sorted(depths, key=lambda found: -found[0])
    return {
        id(element): f"bridge{number} {element.attributes.get('busid', '')[:32]}"
        for number, (_, element) in enumerate(deepest_first)
    }


def _check(machine: Machine, root: Element) -> None:
    place = machine.place
    if not machine.gpus:
        problem = "has no <gpu> with a rank: it may be one of those that NCCL_TOPO_FILE is set to"
        raise InputError(problem, remedy=REMEDY, place=place, line=root.line)
    if len(machine.gpus) > MOST_GPUS:
        problem = f"has {len(machine.gpus)} GPUs"
        raise InputError(problem, remedy=f"give a file of at most {MOST_GPUS}", place=place)
    named = [(gpu.name, "dev") for gpu in machine.gpus] + [(str(gpu.rank), "rank") for gpu in machine.gpus]
    named += [(nic.name, "name") for nic in machine.nics]
    for (name, attribute), count in Counter(named).items():
        if count > 1:
            problem = f"the {attribute} {cut(repr(name))} is given {count} times"
            raise InputError(problem, remedy=f"correct the attribute, or {REMEDY}", place=place)


def _add_processor(machine: Machine, processor: Element) -> None:
    key = processor.attributes.get("host_hash", "")
    host = machine.hosts.setdefault(key, f"system{len(machine.hosts)}")
    integer_of(processor, "numaid", machine.place, least=-1)
    sockets = _sockets_bytes_per_s(processor, machine.place)
    numa, smp = f"numa{machine.processors}", f"smp{host.removeprefix('system')}"
    machine.processors += 1
    local = nccl_numbers.LOCAL_BYTES_PER_S
    top = Way(host, (MeetingPoint(numa, local), MeetingPoint(smp, sockets)), local)
    for child in processor.children:
        if child.tag == "pci":
            _add_pci(machine, child, top)
        elif child.tag == "nic":
            _add_nic(machine, child, top)


def _add_pci(machine: Machine, pci: Element, above: Way) -> None:
    """Add the GPU or NIC of a PCIe device, or all below a bridge."""
    place = machine.place
    bus = text_of(pci, "busid", place).lower()
    if (above.host, bus) in machine.buses:
        raise refused(pci, f"a second <pci> with the busid {cut(repr(bus))}", place)
    machine.buses.add((above.host, bus))
    text_of(pci, "class", place)
    speed, width = text_of(pci, "link_speed", place), integer_of(pci, "link_width", place)
    bandwidth = nccl_numbers.pcie_bytes_per_s(speed, width)
    if bandwidth is None:
        raise refused(pci, f"link_speed is {cut(repr(speed))}, not for example '16.0 GT/s PCIe'", place)
    narrowed = tuple(MeetingPoint(p.name, min(p.bandwidth_bytes_per_s, bandwidth)) for p in above.points)
    way = Way(above.host, narrowed, min(above.to_host_bytes_per_s, bandwidth))
    gpus = [child for child in pci.children if child.tag == "gpu"]
    if len(gpus) > 1:
        raise refused(gpus[1], "a second <gpu> of one <pci>: parts of a GPU are not known here", place)
    if gpus and "rank" in gpus[0].attributes:
        _add_gpu(machine, gpus[0], bus, way)
    local = nccl_numbers.LOCAL_BYTES_PER_S
    bridge = (MeetingPoint(machine.bridges[id(pci)], local),) if id(pci) in machine.bridges else ()
    below = Way(way.host, (*bridge, *narrowed), way.to_host_bytes_per_s)
    for child in pci.children:
        if child.tag == "nic":
            _add_nic(machine, child, way)
        elif child.tag == "pci":
            _add_pci(machine, child, below)


def _add_gpu(machine: Machine, gpu: Element, bus: str, way: Way) -> None:
    place = machine.place
    number = integer_of(gpu, "dev", place)
    found = FoundGpu(
        gpu, bus, way, integer_of(gpu, "rank", place), integer_of(gpu, "sm", place), f"{way.host}/gpu{number}"
    )
    machine.gpus.append(found)


def _add_nic(machine: Machine, nic: Element, way: Way) -> None:
    """Add the ports of a NIC; those without `dev` NCCL passes over too."""
    place = machine.place
    for net in nic.children:
        if net.tag != "net" or "dev" not in net.attributes:
            continue
        speed = integer_of(net, "speed", place, least=-1)
        bits_per_s = speed * 1e6 if speed > 0 else nccl_numbers.UNKNOWN_NIC_BITS_PER_S
        latency_s = decimal_of(net, "latency", place) * 1e-6
        direct = net.attributes.get("gdr", "0") == "1"
        name = f"{way.host}/{text_of(net, 'name', place)}"
        machine.nics.append(FoundNic(name, way, bits_per_s / 8, latency_s, direct))


def _sockets_bytes_per_s(processor: Element, place: str) -> float:
    arch = text_of(processor, "arch", place)
    vendor = text_of(processor, "vendor", place) if arch == "x86_64" else ""
    if vendor == "GenuineIntel":
        return nccl_numbers.intel_bytes_per_s(
            integer_of(processor, "familyid", place), integer_of(processor, "modelid", place)
        )
    if vendor == "AuthenticAMD":
        return nccl_numbers.amd_bytes_per_s(integer_of(processor, "familyid", place))
    return nccl_numbers.other_bytes_per_s(arch)
