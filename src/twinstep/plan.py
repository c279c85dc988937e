"""Plan: what a scenario file holds, validated and frozen.

Each class is one section of the file; its docstrings become the descriptions in the JSON Schema, so what an editor
shows while typing is what stands here. Checks that need several sections at once are in `Plan` itself.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from twinstep.disturbances import MAX_RANKS, jitter
from twinstep.partition import Partition
from twinstep.run import Run
from twinstep.strict_model import StrictModel
from twinstep.synchronisation import Sync
from twinstep.topologies import DeviceSpec, TopologySpec
from twinstep.workloads import VOCABULARY, CollectiveBench, Gpt, LinearRegression, Mlp, Training, WorkloadSpec
from twinstep.workloads.linear_regression import feature_count

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
    executor runs
    `auto`."""
    algorithm: Algorithm = "auto"
    """`auto` is what the library would choose, `best` the fastest; or one algorithm for every collective that has
    it."""
    routing: Literal["shortest", "ecmp", "spray"] = "shortest"
    """Which of equally short paths a flow takes: the first by name, one by a hash of its ends, or all in equal
    parts."""
    mtu: Annotated[int, Field(ge=576, le=9216)] = 1500
    """Bytes of the largest IP packet between hosts: the fewer, the more of a link headers take."""


class Plan(StrictModel):
    """A distributed training plan: one question, predicted and measured."""

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
        partition = self.partition
        return partition.data * partition.features * partition.tensor * partition.pipeline

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
        """Tell whether ranks share a model, or cut their samples into microbatches: what needs emulated compute."""
        return self.partition.tensor * self.partition.pipeline * self.partition.microbatches > 1

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
        by_all_reduce = self.sync.method == "all_reduce" and not self.is_hybrid and self.partition.features == 1
        return by_all_reduce and not isinstance(self.workload, CollectiveBench)

    @property
    def predicted_only(self) -> str:
        """Say why no executor can run the plan as it stands; empty where one can."""
        if self.run.compute == "real" and not self._computes_really:
            return "with real compute only data parallelism by all-reduce has an executor: set run.compute to emulated"
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

    @model_validator(mode="after")
    def _one_change_at_a_time(self) -> Plan:
        seen = set()
        for change in self.run.link_changes:
            key = (frozenset((change.source, change.target)), change.at)
            if key in seen:
                raise ValueError(
                    f"run.link_changes has two changes of {change.source!r} to {change.target!r} at one time"
                )
            seen.add(key)
        return self

    @model_validator(mode="after")
    def _hosts_share_cores(self) -> Plan:
        if self.is_on_emulated_cluster and self.run.compute == "real":
            raise ValueError("run.backend emulated needs run.compute emulated: all hosts share this machine's cores")
        return self

    @model_validator(mode="after")
    def _methods_share_data_alone(self) -> Plan:
        if self.sync.method != "all_reduce" and self.is_hybrid:
            raise ValueError(f"sync.method {self.sync.method} needs partition.tensor, pipeline and microbatches of 1")
        if self.sync.method != "all_reduce" and isinstance(self.workload, CollectiveBench):
            raise ValueError(f"sync.method {self.sync.method} needs a workload that trains")
        if self.sync.every > self.total_steps:
            raise ValueError(f"sync.every ({self.sync.every}) is more than the {self.total_steps} steps that there are")
        if self.sync.backups >= self.workers:
            raise ValueError(f"sync.backups ({self.sync.backups}) must be less than the {self.workers} workers")
        if self.run.jitter and self.run.compute == "real":
            raise ValueError("run.jitter needs run.compute emulated")
        return self

    @model_validator(mode="after")
    def _features_can_be_cut(self) -> Plan:
        features = self.partition.features
        if features == 1:
            return self
        if not isinstance(self.workload, LinearRegression) or self.sync.method != "all_reduce" or self.is_hybrid:
            raise ValueError("partition.features is for linear_regression with sync.method all_reduce")
        if features > feature_count(self.workload.polynomial_degree):
            raise ValueError(f"partition.features ({features}) is more than the features that there are")
        return self

    @model_validator(mode="after")
    def _can_be_placed(self) -> Plan:
        placement = self.partition.placement
        if placement == "range":
            return self
        if self.run.compute == "real":
            raise ValueError(f"partition.placement {placement} needs run.compute emulated")
        if self.is_hybrid or not isinstance(self.workload, LinearRegression | Mlp):
            raise ValueError(f"partition.placement {placement} is for data parallel linear_regression and mlp")
        if placement in ("stratified", "by_label") and not isinstance(self.workload, Mlp):
            raise ValueError(f"partition.placement {placement} needs labels: workload.kind mlp")
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> Plan:
        if not self.run.learning:
            return self
        if self.run.compute == "real":
            raise ValueError("run.learning is for run.compute emulated: real compute always trains")
        if not isinstance(self.workload, LinearRegression | Mlp):
            raise ValueError("run.learning needs workload.kind linear_regression or mlp")
        return self

    @model_validator(mode="after")
    def _can_be_compressed(self) -> Plan:
        kind = self.sync.compression.kind
        if kind == "none":
            return self
        if isinstance(self.workload, CollectiveBench):
            raise ValueError(f"sync.compression.kind {kind} needs a workload that trains: set it to none")
        if self.is_hybrid or self.partition.features > 1:
            raise ValueError(
                f"sync.compression.kind {kind} needs partition.features, tensor, pipeline and microbatches of 1"
            )
        return self

    @model_validator(mode="after")
    def _few_ranks(self) -> Plan:
        if self.ranks > MAX_RANKS:
            raise ValueError(f"partition asks for {self.ranks} ranks: there may be {MAX_RANKS} at most")
        return self

    @model_validator(mode="after")
    def _model_can_be_cut(self) -> Plan:
        workload, tensor, pipeline = self.workload, self.partition.tensor, self.partition.pipeline
        if not self.is_hybrid:
            return self
        if not isinstance(workload, Gpt):
            raise ValueError("partition.tensor, pipeline and microbatches apply to workload.kind gpt: leave them at 1")
        for name, size in (("heads", workload.heads), ("vocabulary", workload.vocabulary)):
            if size % tensor:
                raise ValueError(f"partition.tensor ({tensor}) must divide workload.{name} ({size})")
        if pipeline > workload.layers:
            raise ValueError(f"partition.pipeline ({pipeline}) is more than workload.layers ({workload.layers})")
        return self

    @model_validator(mode="after")
    def _bytes_are_text(self) -> Plan:
        if isinstance(self.workload, Gpt) and self.workload.vocabulary != VOCABULARY and self.run.compute == "real":
            raise ValueError(f"workload.vocabulary is {VOCABULARY} for real compute: set run.compute to emulated")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Plan:
        degree = self.partition.data
        if isinstance(self.workload, CollectiveBench):
            return self
        if isinstance(self.workload, LinearRegression):
            if degree > self.workload.samples:
                raise ValueError(f"partition.data ({degree}) is more than the {self.workload.samples} samples")
        elif self.workload.batch % degree:
            raise ValueError(f"partition.data ({degree}) must divide workload.batch ({self.workload.batch})")
        elif self.workload.batch // degree % self.partition.microbatches:
            raise ValueError(
                f"partition.microbatches ({self.partition.microbatches}) must divide the "
                f"{self.workload.batch // degree} samples of a data-parallel rank"
            )
        return self

    @model_validator(mode="after")
    def _stragglers_exist(self) -> Plan:
        ranks = [straggler.rank for straggler in self.run.stragglers]
        if len(ranks) != len(set(ranks)):
            raise ValueError("run.stragglers names a rank twice: give each rank one slowdown")
        beyond = [rank for rank in ranks if rank >= self.ranks]
        if beyond:
            raise ValueError(f"run.stragglers names rank {beyond[0]}, but ranks go from 0 to {self.ranks - 1}")
        return self
