"""Sections: what a scenario file holds of a plan, and what follows from it.

The docstrings of sections become the descriptions in the JSON Schema, so what an editor shows while typing is what
stands here and in the sections' own modules. Whether they fit together is for `Plan` to say.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from twinstep.disturbances import jitter
from twinstep.native import unshared_by_torch
from twinstep.partition import Partition
from twinstep.run import Run
from twinstep.strict_model import StrictModel
from twinstep.survival import lost_with
from twinstep.synchronisation import Sync
from twinstep.topologies import DeviceSpec, TopologySpec
from twinstep.workloads import (
    CollectiveBench,
    Training,
    WorkloadSpec,
)

Algorithm = Literal[
    "auto",
    "best",
    "ring",
    "ring_per_device",
    "bidirectional_ring",
    "double_binary_tree",
    "tree_per_device",
    "halving_doubling",
    "recursive_doubling",
    "bruck",
    "pairwise",
    "direct",
    "binomial",
    "pipelined_binomial",
    "hierarchical",
    "in_network",
]
"""How a collective goes about it; `twinstep.sim.algorithms` derives each."""


class Communication(StrictModel):
    """Which library carries the communication, and how it goes about it."""

    library: Literal["auto", "gloo", "nccl", "ideal"] = "auto"
    """`auto` is NCCL between GPUs and gloo otherwise; `ideal` is the fastest algorithm without any software. The
    executor runs `auto`."""
    algorithm: Algorithm = "auto"
    """`auto` is what the library would choose, `best` the fastest; or one algorithm for every collective that has
    it."""
    routing: Literal["shortest", "ecmp", "spray"] = "shortest"
    """Which of equally short paths a flow takes: the first by name, one by a hash of its ends, or all in equal
    parts."""
    mtu: Annotated[int, Field(ge=576, le=9216)] = 1500
    """Bytes of the largest IP packet between hosts: the fewer, the more of a link headers take."""


class Sections(StrictModel):
    """The sections of a plan."""

    question: Annotated[str, Field(max_length=500)] = ""
    """What a user wants to know from this scenario; the report's subtitle."""
    workload: WorkloadSpec
    """What is trained, on which data, in which batches."""
    partition: Partition = Partition()
    """How it is split over ranks."""
    sync: Sync = Sync()
    """How ranks agree."""
    communication: Communication = Communication()
    """Which library carries the communication."""
    topology: TopologySpec
    """Hosts, devices and links: a builder, an explicit graph, or a file."""
    run: Run = Run()
    """Steps, seed, tolerance, kind of compute."""

    @property
    def ranks(self) -> int:
        """Number of ranks: workers, then parameter servers."""
        return self.workers + self.sync.server_count

    @property
    def workers(self) -> int:
        """Number of ranks that the partition asks for."""
        return self.partition.ranks

    @property
    def total_steps(self) -> int:
        """Steps of a worker, warm-up included."""
        return self.run.warmup + self.run.steps

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """For each rank, the index of its device in the topology."""
        servers = self.sync.server_count
        own = range(self.workers, self.ranks)
        beside = (number * self.workers // servers for number in range(servers))
        return (*range(self.workers), *(beside if self.sync.servers.beside_workers else own))

    @property
    def training(self) -> Training:
        """The workload of a plan that trains. Raises TypeError for one that does not."""
        if isinstance(self.workload, CollectiveBench):
            raise TypeError("a benchmark of a collective trains nothing")
        return self.workload

    @property
    def is_hybrid(self) -> bool:
        """Tell whether the partition asks for more than replicated data parallelism."""
        return self.partition.is_hybrid

    @property
    def shares_tensors_by_torch(self) -> bool:
        """Tell whether torch's DTensor shares parameters among tensor-parallel ranks."""
        return self.run.engine == "native" and self.partition.tensor > 1

    @property
    def _hybrid_words(self) -> str:
        """Name the keys that ask for more than that."""
        return ", ".join(f"partition.{name}" for name in self.partition.hybrid_keys)

    def library_on(self, device: DeviceSpec) -> Literal["gloo", "nccl", "ideal"]:
        """Name the library that carries the communication of ranks on such devices."""
        if self.communication.library != "auto":
            return self.communication.library
        return "nccl" if device == "cuda" and self.run.compute == "real" else "gloo"

    @property
    def is_on_emulated_cluster(self) -> bool:
        """Tell whether the plan is for network namespaces of this machine, rather than for its loopback interface."""
        return self.run.backend == "emulated"

    @property
    def _computes_really(self) -> bool:
        of_samples = self.sync.method in ("all_reduce", "shared_memory") and not self.is_hybrid
        return of_samples and self.partition.features == 1 and not isinstance(self.workload, CollectiveBench)

    @property
    def _beyond_engines(self) -> str:
        """Say why no engine does what the ranks compute; empty where one does."""
        if self.partition.offload != "none":
            return f"partition.offload is {self.partition.offload}, and no executor updates parameters on the host"
        if self.run.engine == "native":
            return unshared_by_torch(self.partition)
        if self.run.compute == "emulated" or self._computes_really:
            return ""
        remedy = "run.engine to native or run.compute to emulated" if self.is_hybrid else "run.compute to emulated"
        return (
            "with real compute the rank programs execute data parallelism by all-reduce or shared memory alone: "
            f"set {remedy}"
        )

    @property
    def predicted_only(self) -> str:
        """Say why no executor can run the plan as it stands; empty where one can."""
        if self._beyond_engines:
            return self._beyond_engines
        if any(change.at or not change.bandwidth for change in self.run.link_changes):
            return "links that fail, or change during the run, have no executor yet"
        if (self.run.background or self.run.link_changes) and not self.is_on_emulated_cluster:
            return "run.background and run.link_changes need run.backend emulated"
        if self.communication.library != "auto":
            return f"communication.library is {self.communication.library}, and the executor's follows from the devices"
        if self.communication.algorithm != "auto":
            return f"communication.algorithm is {self.communication.algorithm}, which the library cannot be told"
        return ""

    def slowdown(self, rank: int) -> float:
        """Give how many times as long a rank's computations take."""
        return next((s.slowdown for s in self.run.stragglers if s.rank == rank), 1.0)

    def pace(self, rank: int, step: int) -> float:
        """Give how many times as long a rank's computations take in a step."""
        chance = jitter(self.run.jitter, self.run.seed, rank, step) if self.run.jitter else 1.0
        return self.slowdown(rank) * chance

    def lost_with(self, dead: AbstractSet[int]) -> str:
        """Say why the run cannot go on without some ranks; empty where it can."""
        return lost_with(self.sync, self.workers, dead)
