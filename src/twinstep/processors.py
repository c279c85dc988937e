"""Processors: whether hosts state what they need to update what ranks offload to them."""

from __future__ import annotations

from twinstep.errors import InputError
from twinstep.plan import Plan
from twinstep.strict_yaml import Document
from twinstep.topologies import Topology


def check_processors(plan: Plan, topology: Topology, document: Document) -> None:
    """Raise InputError where a rank offloads to a host that states no processor, or not how much memory it has."""
    if plan.partition.offload == "none":
        return
    offload = f"partition.offload is {plan.partition.offload}"
    for host in dict.fromkeys(topology.device_hosts[index] for index in plan.devices):
        processor = topology.processors.get(host)
        if processor is None or processor.memory is None:
            missing = "no processor" if processor is None else "no memory of its processor"
            raise InputError(
                f"{offload}, and host {host!r} of the topology states {missing}",
                remedy="give the topology (of kind graph: the host) a processor from a data sheet, e.g. processor: "
                "{peak: 5 TFLOP/s, memory_bandwidth: 200 GB/s, memory: 512 GiB}",
                place=document.place,
                line=document.line_of(("partition", "offload")),
            )
