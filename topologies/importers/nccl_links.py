"""From what NCCL's XML lists to links: NVLinks, and those between GPUs, NICs, hosts and the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from twinstep.topologies.importers import nccl_numbers
from twinstep.topologies.importers.gpu_host import Wire
from twinstep.topologies.importers.nccl_machine import FoundGpu, FoundNic, Machine, integer_of, refused, text_of
from twinstep.yaml_composer import cut

_NETWORK = "network"
_FABRIC_TARGET = "fffffff"
"""How the bus id of an NVSwitch begins that is outside the host and joins several."""


def to_host_bytes_per_s(gpu: FoundGpu, place: str) -> float:
    """Give the bandwidth of a GPU to its host: over PCIe, or NVLink or C2C where those lead there.

    Raises InputError for a count or bandwidth that is none.
    """
    found = [gpu.way.to_host_bytes_per_s]
    for child in gpu.element.children:
        if child.tag == "c2c":
            found.append(integer_of(child, "bw", place) * integer_of(child, "count", place) * 1e6)
        elif child.tag == "nvlink" and child.attributes.get("tclass", "").startswith("0x068001"):
            found.append(integer_of(child, "count", place, least=1) * nccl_numbers.nvlink_bytes_per_s(gpu.capability))
    return max(found)


def nvlinks_of(machine: Machine) -> list[Wire]:
    """Give the NVLinks between GPUs, each pair once, and those to NVSwitches.

    Raises InputError where the two ends disagree.
    """
    place = machine.place
    by_bus = {(gpu.way.host, gpu.bus): gpu for gpu in machine.gpus}
    counts: Counter[tuple[str, str]] = Counter()
    for gpu in machine.gpus:
        for nvlink in gpu.element.children:
            if nvlink.tag != "nvlink":
                continue
            target, kind = text_of(nvlink, "target", place).lower(), text_of(nvlink, "tclass", place)
            count = integer_of(nvlink, "count", place, least=1)
            if kind.startswith("0x068000"):
                shared = target.startswith(_FABRIC_TARGET)
                counts[gpu.name, "NVSwitch" if shared else f"NVSwitch{gpu.way.host.removeprefix('system')}"] += count
            elif kind.startswith("0x03"):
                if (other := by_bus.get((gpu.way.host, target))) is not None:  # those left out are not in the file
                    counts[gpu.name, other.name] += count
            elif not kind.startswith("0x068001"):
                raise refused(nvlink, f"tclass {cut(repr(kind))} is that of no GPU, switch or processor", place)
    return _wires(machine, counts)


def _wires(machine: Machine, counts: Counter[tuple[str, str]]) -> list[Wire]:
    gpus = {gpu.name: gpu for gpu in machine.gpus}
    wires = []
    for (one, other), count in counts.items():
        bandwidth = count * nccl_numbers.nvlink_bytes_per_s(gpus[one].capability)
        if other not in gpus:
            wires.append(Wire(one, other, bandwidth, nccl_numbers.NVLINK_STEP_S / 2))
        elif one == other or counts[other, one] != count:
            problem = f"{one} has {count} NVLinks to {other}, which has {counts[other, one]} back"
            raise refused(gpus[one].element, problem, machine.place)
        elif gpus[one].rank < gpus[other].rank:
            wires.append(Wire(one, other, bandwidth, nccl_numbers.NVLINK_STEP_S))
    return wires


def network_of(machine: Machine) -> list[Wire]:
    """Link each NIC to the network, to its host and to the GPUs that it is the nearest to."""
    pcie_s = nccl_numbers.PCIE_STEP_S / 2
    wires = []
    for nic in machine.nics:
        beyond_s = (nccl_numbers.NETWORK_STEP_S - nccl_numbers.PCIE_STEP_S + nic.latency_s) / 2
        wires.append(Wire(nic.name, _NETWORK, nic.bandwidth_bytes_per_s, beyond_s))
        wires.append(Wire(nic.name, nic.way.host, nic.way.to_host_bytes_per_s, pcie_s))
    turns: Counter[tuple[str, ...]] = Counter()
    for gpu in machine.gpus:
        near = _nearest(gpu, machine.nics)
        if near:
            key = tuple(nic.name for nic, _ in near)
            nic, bandwidth = near[turns[key] % len(near)]
            turns[key] += 1
            wires.append(Wire(gpu.name, nic.name, bandwidth, pcie_s))
    return wires


def _nearest(gpu: FoundGpu, nics: Sequence[FoundNic]) -> list[tuple[FoundNic, float]]:
    """Give the NICs whose way meets that of the GPU first, with the narrowest bandwidth in between."""
    found: list[tuple[int, FoundNic, float]] = []
    for nic in nics:
        points = {point.name: point.bandwidth_bytes_per_s for point in nic.way.points}
        meets = next((i for i, point in enumerate(gpu.way.points) if point.name in points), None)
        if nic.direct and meets is not None:
            point = gpu.way.points[meets]
            found.append((meets, nic, min(point.bandwidth_bytes_per_s, points[point.name])))
    nearest = min((meets for meets, _, _ in found), default=0)
    return [(nic, bandwidth) for meets, nic, bandwidth in found if meets == nearest]
