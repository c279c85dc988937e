"""Synchronisation: how ranks agree on the parameters, as a scenario file says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twinstep.compression import Compression
from twinstep.strict_model import StrictModel
from twinstep.units import SizeBytes

MAX_SERVERS = 4096


class Servers(StrictModel):
    """Parameter servers: who keeps the parameters, and who has which."""

    count: Annotated[int, Field(ge=1, le=MAX_SERVERS)] = 1
    """How many servers share the parameters. They are ranks, after the workers."""
    keys: Literal["range", "consistent_hash"] = "range"
    """Which server has which parameters: consecutive ranges of equal length, or blocks by consistent hashing."""
    block: Annotated[SizeBytes, Field(ge=4)] = 16 * 2**10
    """Bytes of a block, which is hashed as a whole."""
    replicas: Annotated[int, Field(ge=1, le=2)] = 1
    """How many servers have each parameter. With two, each copies every update to the next one before it answers; where
    it dies, its workers go on with the next."""
    sparse: bool = False
    """Whether workers push and pull only those parameters that their batch touches, each with its key. For
    sparse_logistic_regression with sgd, without replicas."""
    beside_workers: bool = False
    """Whether servers are on the devices of workers, spread evenly, rather than on devices of their own. Both compute
    at full speed."""


class Sync(StrictModel):
    """How ranks agree on the parameters."""

    method: Literal["all_reduce", "parameter_server", "local_sgd", "gossip", "shared_memory"] = "all_reduce"
    """Gradients are summed over all ranks; or workers push them to servers, which answer with parameters; or workers
    take steps of their own and average parameters, with all others or with their neighbours; or workers of one host
    update parameters in memory that they share, without locks."""
    mode: Literal["bulk_synchronous", "stale_synchronous", "asynchronous"] = "bulk_synchronous"
    """How far workers may be ahead of the slowest one: not at all, some steps, or any number; the last two with
    servers, and the last with shared memory, which has no other."""
    bound: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many steps a worker may be ahead of the slowest one, where the mode is stale_synchronous."""
    backups: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """How many of the workers a server does not wait for in a step: gradients that come later are dropped. Where the
    mode is bulk_synchronous, with one server."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """After how many steps workers average their parameters, where the method is local_sgd or gossip."""
    neighbours: Literal["ring", "topology"] = "ring"
    """With whom a worker averages, where the method is gossip: those beside it on a ring of the ranks, or the ranks of
    its own host and of the nearest hosts in the topology."""
    outer_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=False)] = 0.0
    """Nesterov's momentum from one average to the next (DiLoCo), where the method is local_sgd."""
    servers: Servers = Servers()
    """Who keeps the parameters, where the method is parameter_server."""
    bucket: SizeBytes = 25 * 2**20
    """A bucket of gradients is communicated when it has grown to this size, and at the end."""
    overlap: bool = True
    """Whether a bucket travels while earlier layers are still in their backward pass."""

    compression: Compression = Compression()
    """What is sent of the gradients, where the method is all_reduce or parameter_server."""

    @property
    def goes_by_arrival(self) -> bool:
        """Tell whether whoever comes first goes on first, so that chance decides on the course of events."""
        return self.method == "parameter_server" and (self.mode != "bulk_synchronous" or self.backups > 0)

    @property
    def server_count(self) -> int:
        """Ranks that are servers."""
        return self.servers.count if self.method == "parameter_server" else 0

    @model_validator(mode="after")
    def _neighbours_gossip(self) -> Sync:
        if self.neighbours != "ring" and self.method != "gossip":
            raise ValueError("sync.neighbours applies to sync.method gossip: leave it out")
        return self

    @model_validator(mode="after")
    def _shared_memory_waits_for_nobody(self) -> Sync:
        if self.method == "shared_memory" and self.mode != "asynchronous":
            raise ValueError("sync.method shared_memory needs sync.mode asynchronous: its workers wait for nobody")
        return self

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> Sync:
        if self.method not in ("parameter_server", "shared_memory") and self.mode != "bulk_synchronous":
            raise ValueError(f"sync.mode {self.mode} needs sync.method parameter_server")
        if self.mode != "stale_synchronous" and self.bound:
            raise ValueError("sync.bound applies to sync.mode stale_synchronous: set that, or leave the bound at 0")
        if self.method != "all_reduce" and (self.bucket, self.overlap) != (Sync().bucket, True):
            raise ValueError("sync.bucket and sync.overlap apply to sync.method all_reduce: leave them out")
        if self.every > 1 and self.method not in ("local_sgd", "gossip"):
            raise ValueError("sync.every applies to sync.method local_sgd and gossip: leave it at 1")
        if self.outer_momentum and self.method != "local_sgd":
            raise ValueError("sync.outer_momentum applies to sync.method local_sgd: leave it at 0")
        return self

    @model_validator(mode="after")
    def _gradients_are_compressed(self) -> Sync:
        kind = self.compression.kind
        if kind != "none" and self.method not in ("all_reduce", "parameter_server"):
            raise ValueError(
                f"sync.compression.kind {kind} is for gradients, which sync.method {self.method} does not send: "
                "set sync.compression.kind to none, or sync.method to all_reduce or parameter_server"
            )
        if kind == "power_sgd" and self.method == "parameter_server":
            raise ValueError(
                "sync.compression.kind power_sgd needs sums over all ranks, which parameter servers do not make: "
                "set sync.method to all_reduce, or choose another kind"
            )
        return self

    @model_validator(mode="after")
    def _options_fit_the_servers(self) -> Sync:
        servers = self.servers
        if self.method != "parameter_server" and servers != Servers():
            raise ValueError("sync.servers applies to sync.method parameter_server: leave it out")
        if servers.keys == "range" and servers.block != Servers().block:
            raise ValueError("sync.servers.block applies to sync.servers.keys consistent_hash: leave it out")
        if self.backups and (self.method, self.mode) != ("parameter_server", "bulk_synchronous"):
            raise ValueError("sync.backups applies to bulk synchronous parameter servers: leave it at 0")
        if self.backups and servers.count > 1:
            raise ValueError("sync.backups needs sync.servers.count of 1: several would drop different gradients")
        if servers.sparse and servers.replicas > 1:
            raise ValueError("sync.servers.sparse needs sync.servers.replicas of 1: copies are of all parameters")
        if servers.replicas > servers.count:
            raise ValueError(
                f"sync.servers.replicas of {servers.replicas} needs as many servers: see sync.servers.count"
            )
        return self
