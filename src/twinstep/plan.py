"""Plan: what a scenario file holds, validated and frozen. Here are the checks that need several sections at once."""

from __future__ import annotations

from pydantic import model_validator

from twinstep.degrees import misfits
from twinstep.disturbances import MAX_RANKS
from twinstep.native import native_misfits
from twinstep.sections import Sections
from twinstep.synchronisation import Sync
from twinstep.units import format_size
from twinstep.workloads import (
    VOCABULARY,
    Classifier,
    CollectiveBench,
    Gpt,
    LinearRegression,
    Regression,
    SparseLogisticRegression,
)


class Plan(Sections):
    """A distributed training plan: one question, predicted and measured."""

    @model_validator(mode="after")
    def _deaths_are_survived(self) -> Plan:
        dead = [death.rank for death in self.run.deaths]
        if len(set(dead)) < len(dead):
            raise ValueError("run.deaths names a rank twice: each dies once")
        if dead and max(dead) >= self.ranks:
            raise ValueError(f"run.deaths names rank {max(dead)}, but ranks go from 0 to {self.ranks - 1}")
        if dead and self.run.compute == "real":
            raise ValueError("run.deaths needs run.compute emulated")
        if problem := self.lost_with(set(dead)):
            raise ValueError(f"run.deaths ends the run: {problem}")
        return self

    @model_validator(mode="after")
    def _torch_can_do_it(self) -> Plan:
        if self.run.engine == "native":
            for misfit in native_misfits(self.workload, self.sync, self.run):
                raise ValueError(misfit)
        return self

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
            raise ValueError(f"sync.method {self.sync.method} needs replicas alone: leave out {self._hybrid_words}")
        if self.sync.method != "all_reduce" and isinstance(self.workload, CollectiveBench):
            raise ValueError(f"sync.method {self.sync.method} needs a workload that trains")
        if self.sync.method == "shared_memory" and self.training.optimizer.kind != "sgd":
            kind = self.training.optimizer.kind
            raise ValueError(f"sync.method shared_memory needs workload.optimizer.kind sgd: {kind} has a state")
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
        if not isinstance(self.workload, Regression) or self.sync.method != "all_reduce" or self.is_hybrid:
            raise ValueError("partition.features is for linear_regression and logistic_regression by all_reduce")
        if (self.sync.bucket, self.sync.overlap) != (Sync().bucket, True):
            raise ValueError("sync.bucket and sync.overlap need partition.features of 1: leave them out")
        if features > self.workload.features:
            raise ValueError(f"partition.features ({features}) is more than the features that there are")
        return self

    @model_validator(mode="after")
    def _can_be_placed(self) -> Plan:
        placement = self.partition.placement
        if placement == "range":
            return self
        if self.run.compute == "real":
            raise ValueError(f"partition.placement {placement} needs run.compute emulated")
        if self.is_hybrid or not isinstance(self.workload, LinearRegression | Classifier):
            raise ValueError(
                f"partition.placement {placement} is for data parallel linear_regression, logistic_regression and mlp"
            )
        if placement in ("stratified", "by_label") and not isinstance(self.workload, Classifier):
            raise ValueError(f"partition.placement {placement} needs labels: workload.kind mlp or logistic_regression")
        return self

    @model_validator(mode="after")
    def _imbalance_can_be_remedied(self) -> Plan:
        remedy = f"partition.remedy {self.partition.remedy}"
        if self.partition.remedy == "none":
            return self
        if not isinstance(self.workload, Classifier):
            raise ValueError(f"{remedy} needs labels: workload.kind mlp or logistic_regression")
        if self.sync.method not in ("parameter_server", "local_sgd", "gossip"):
            raise ValueError(
                f"{remedy} needs sync.method parameter_server, local_sgd or gossip: not {self.sync.method}"
            )
        if self.partition.remedy == "repartition" and self.run.deaths:
            raise ValueError(f"{remedy} and run.deaths exclude each other: who dies may owe others their samples")
        if self.partition.remedy == "repartition" and not self.run.warmup:
            raise ValueError(f"{remedy} takes place in the first step of the warm-up: set run.warmup to 1 or more")
        if self.partition.remedy == "class_weights" and not self.run.learning:
            raise ValueError(f"{remedy} changes what is learnt, and no time: set run.learning to true")
        return self

    @model_validator(mode="after")
    def _sparse_features_are_served(self) -> Plan:
        workload = self.workload
        if not isinstance(workload, SparseLogisticRegression):
            if self.sync.servers.sparse:
                raise ValueError(
                    f"sync.servers.sparse needs workload.kind sparse_logistic_regression: a batch of {workload.kind} "
                    "touches all parameters"
                )
            return self
        if self.sync.method != "parameter_server":
            raise ValueError(
                f"workload.kind sparse_logistic_regression needs sync.method parameter_server, not {self.sync.method}"
            )
        if self.run.compute == "real":
            raise ValueError("workload.kind sparse_logistic_regression needs run.compute emulated")
        if self.sync.servers.sparse and workload.optimizer.kind != "sgd":
            raise ValueError(
                f"sync.servers.sparse needs workload.optimizer.kind sgd: {workload.optimizer.kind} changes parameters "
                "that a batch does not touch, too"
            )
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> Plan:
        if not self.run.learning:
            return self
        if self.run.compute == "real":
            raise ValueError("run.learning is for run.compute emulated: real compute always trains")
        if not isinstance(self.workload, LinearRegression | Classifier | SparseLogisticRegression):
            raise ValueError(
                "run.learning needs workload.kind linear_regression, logistic_regression, sparse_logistic_regression "
                "or mlp"
            )
        return self

    @model_validator(mode="after")
    def _can_be_compressed(self) -> Plan:
        kind = self.sync.compression.kind
        if kind == "none":
            return self
        if isinstance(self.workload, CollectiveBench):
            raise ValueError(f"sync.compression.kind {kind} needs a workload that trains: set it to none")
        if self.sync.servers.sparse:
            raise ValueError(f"sync.compression.kind {kind} and sync.servers.sparse exclude each other: leave one out")
        if self.is_hybrid or self.partition.features > 1:
            others = self._hybrid_words or "partition.features"
            raise ValueError(f"sync.compression.kind {kind} excludes {others}: leave one out")
        return self

    @model_validator(mode="after")
    def _few_ranks(self) -> Plan:
        if self.ranks > MAX_RANKS:
            raise ValueError(f"partition asks for {self.ranks} ranks: there may be {MAX_RANKS} at most")
        return self

    @model_validator(mode="after")
    def _schedules_have_a_pipeline(self) -> Plan:
        partition = self.partition
        if partition.pipeline > 1:
            return self
        fields = type(partition).model_fields
        if partition.schedule != fields["schedule"].default:
            raise ValueError(
                f"partition.schedule {partition.schedule} needs partition.pipeline of 2 or more: leave it out"
            )
        if partition.chunks > 1:
            raise ValueError(
                f"partition.chunks ({partition.chunks}) needs partition.pipeline of 2 or more: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _gradients_fill_buckets(self) -> Plan:
        partition = self.partition
        if self.sync.bucket == Sync().bucket:
            return self
        if partition.shards_gradients:
            raise ValueError(
                f"sync.bucket does nothing with partition.sharding {partition.sharding}, which sends units: "
                f"leave it out, or set sync.bucket to {format_size(Sync().bucket)}"
            )
        if self.shares_tensors_by_torch:
            raise ValueError(
                "sync.bucket does nothing with run.engine native and partition.tensor, where torch sends units: "
                f"leave it out, or set sync.bucket to {format_size(Sync().bucket)}"
            )
        return self

    @model_validator(mode="after")
    def _model_can_be_cut(self) -> Plan:
        if not self.is_hybrid:
            return self
        if not isinstance(self.workload, Gpt):
            raise ValueError(f"{self._hybrid_words} needs workload.kind gpt: leave it out")
        for misfit in misfits(self.partition, self.workload):
            raise ValueError(misfit)
        return self

    @model_validator(mode="after")
    def _offload_is_modelled(self) -> Plan:
        offload = f"partition.offload {self.partition.offload}"
        if self.partition.offload == "none":
            return self
        if self.run.compute == "real":
            raise ValueError(f"{offload} is predicted only: set run.compute to emulated")
        if self.is_on_emulated_cluster:
            raise ValueError(f"{offload} is predicted only: set run.backend to local")
        return self

    @model_validator(mode="after")
    def _bytes_are_text(self) -> Plan:
        if isinstance(self.workload, Gpt) and self.workload.vocabulary != VOCABULARY and self.run.compute == "real":
            raise ValueError(f"workload.vocabulary is {VOCABULARY} for real compute: set run.compute to emulated")
        return self

    @model_validator(mode="after")
    def _torch_has_the_family(self) -> Plan:
        if isinstance(self.workload, Gpt) and self.run.compute == "real" and self.workload.beyond_torch:
            raise ValueError(
                f"workload.{self.workload.beyond_torch} needs run.compute emulated: set that, with run.engine program"
            )
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
                f"{self.workload.batch // degree} samples of a data-parallel rank: set it to a divisor"
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
