"""Plans for how ranks agree: the scenarios, and variations of them on 4 to 16 hosts that nothing was tried on."""

from __future__ import annotations

SCENARIOS = (
    "ps-sync",
    "ps-async",
    "ps-stale-2",
    "ps-incast",
    "ps-sharded-4",
    "ps-server-dies",
    "ps-sparse",
    "local-sgd-8",
    "gossip-ring",
    "skewed-data",
    "vertical-regression",
    "topk-slow-network",
)
_SMALL = "workload.batch=192"
_LARGE = "workload.batch=384"
_LINEAR = (
    "workload={kind: linear_regression, polynomial_degree: 4, optimizer: {kind: sgd, learning_rate: 0.005}}",
    "topology.device.peak=20 MFLOP/s",
    "run.steps=120",
)
VARIATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("no compression", "topk-slow-network", ("sync.compression={kind: none}",)),
    ("fp16", "topk-slow-network", ("sync.compression={kind: fp16}",)),
    ("int8", "topk-slow-network", ("sync.compression={kind: int8}",)),
    ("PowerSGD", "topk-slow-network", ("sync.compression={kind: power_sgd}",)),
    ("top_k 5 %, another seed", "topk-slow-network", ("sync.compression.ratio=0.05", "run.seed=7")),
    (
        "asynchronous, 4 workers, 1 server, 60 steps",
        "ps-async",
        ("partition.data=4", "sync.servers.count=1", "run.steps=60", "run.seed=5"),
    ),
    (
        "asynchronous, 12 workers, 3 servers",
        "ps-async",
        ("partition.data=12", "sync.servers.count=3", "topology.hosts=15", _LARGE),
    ),
    ("asynchronous, linear regression, 5 workers", "ps-async", (*_LINEAR, "partition.data=5")),
    ("asynchronous, two workers die", "ps-async", ("run.deaths=[{rank: 2, at: 0.8 s}, {rank: 5, at: 1.4 s}]",)),
    (
        "asynchronous, fp16, 6 workers, 1 server",
        "ps-async",
        ("partition.data=6", "sync.servers.count=1", "sync.compression={kind: fp16}", _SMALL),
    ),
    (
        "asynchronous, four times the parameters",
        "ps-async",
        ("workload.hidden=[512, 512]", "topology.device.peak=1600 MFLOP/s"),
    ),
    (
        "stale 1, 6 workers, 1 server",
        "ps-stale-2",
        ("partition.data=6", "sync.servers.count=1", "sync.bound=1", _SMALL),
    ),
    (
        "stale 1, 3 servers with replicas, one dies",
        "ps-server-dies",
        (
            "sync.mode=stale_synchronous",
            "sync.bound=1",
            "sync.servers.count=3",
            "topology.hosts=11",
            "run.deaths=[{rank: 9, at: 1.2 s}]",
        ),
    ),
    (
        "synchronous, 12 workers, 4 servers",
        "ps-sync",
        ("partition.data=12", "sync.servers.count=4", "topology.hosts=16", _LARGE),
    ),
    (
        "synchronous, 2 backups of 6",
        "ps-sync",
        ("partition.data=6", "sync.backups=2", "sync.servers.count=1", _LARGE),
    ),
    (
        "synchronous, 2 servers with replicas, 5 workers",
        "ps-sync",
        ("partition.data=5", "sync.servers={count: 2, replicas: 2}", "workload.batch=320"),
    ),
    ("gossip, 6 workers, every 2", "gossip-ring", ("partition.data=6", "sync.every=2", _SMALL, "topology.hosts=6")),
    (
        "local SGD, 12 workers, every 5, momentum",
        "local-sgd-8",
        ("partition.data=12", "sync.every=5", "topology.hosts=12", _LARGE, "sync.outer_momentum=0.5"),
    ),
)
"""Names, scenarios, and what they set."""


def mode_plans() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Give names, scenarios, and overrides."""
    return (*((f"`{name}`", name, ()) for name in SCENARIOS), *VARIATIONS)
