"""Survival: which ranks a run can lose and go on, and why not."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from twinstep.synchronisation import Sync


def lost_with(sync: Sync, workers: int, dead: AbstractSet[int]) -> str:
    """Say why workers and their servers cannot go on without some ranks, and the remedy; empty where they can.

    Server j has a replica of what server j - 1 is in charge of, where there are two.

    >>> servers = Sync.model_validate({"method": "parameter_server", "servers": {"count": 2, "replicas": 2}})
    >>> lost_with(servers, 3, {3}), lost_with(servers, 3, {3, 4})
    ('', 'no server has the parameters of rank 3 any more: let one of its two servers live')
    >>> lost_with(Sync(), 3, {1})
    'with sync.method all_reduce every rank is needed'
    """
    if not dead:
        return ""
    if sync.method != "parameter_server":
        return f"with sync.method {sync.method} every rank is needed"
    if dead >= set(range(workers)):
        return "no worker is left: let one live"
    count = sync.servers.count
    for server in range(count):
        replicas = {workers + (server + each) % count for each in range(sync.servers.replicas)}
        if dead >= replicas and sync.servers.replicas == 1:
            return f"rank {workers + server} is the only server that has its parameters: set sync.servers.replicas to 2"
        if dead >= replicas:
            return f"no server has the parameters of rank {workers + server} any more: let one of its two servers live"
    return ""
