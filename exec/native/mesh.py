"""Mesh: which rank is where, as torch's DeviceMesh."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from twinstep.partition import Partition
from twinstep.programs.mesh import CONTEXT, COPIES, DATA, SHARDING

REPLICAS = "replicas"


def dimensions(partition: Partition) -> dict[str, int]:
    """Give the dimensions of more than one rank with their degrees, the slowest first.

    Where there are copies of what is sharded, data-parallel ranks have two dimensions.

    >>> dimensions(Partition(data=4, sharding="parameters", sharding_copies=2, tensor=2))
    {'copies': 2, 'sharding': 2, 'tensor': 2}
    """
    found: dict[str, int] = {}
    for name in reversed(partition.order):
        if name == DATA and partition.sharding_copies > 1:
            copies = partition.sharding_copies
            found |= {COPIES: copies, SHARDING: partition.data // copies}
        else:
            found[name] = getattr(partition, name)
    return {name: degree for name, degree in found.items() if degree > 1 or name == SHARDING}


def device_mesh(partition: Partition, device: str) -> DeviceMesh:
    """Make the mesh of all ranks; every one of them must call this. Of one rank it has the dimension `data`."""
    found = dimensions(partition) or {DATA: 1}
    return init_device_mesh(device, tuple(found.values()), mesh_dim_names=tuple(found))


def replica_mesh(mesh: DeviceMesh) -> DeviceMesh | None:
    """Give the rank's part of the mesh that holds the same parameters: one dimension, or copies by sharding.

    Ranks that share the tokens of samples (`context`) hold the same parameters, too. None where no others do.
    """
    names = mesh.mesh_dim_names or ()
    same = tuple(name for name in names if name in (DATA, SHARDING, CONTEXT))
    if not same or mesh.size() == 1:
        return None
    if len(same) > 1:
        mesh[same]._flatten(REPLICAS)
        same = (REPLICAS,)
    return mesh[COPIES, *same] if COPIES in names else mesh[same]


def data_position(mesh: DeviceMesh, partition: Partition) -> int:
    """Give the rank's position among those that have different samples."""
    names = mesh.mesh_dim_names or ()
    if COPIES not in names:
        return mesh.get_local_rank(DATA) if DATA in names else 0
    shares = partition.data // partition.sharding_copies
    return mesh.get_local_rank(COPIES) * shares + mesh.get_local_rank(SHARDING)
