"""Programs: one module a strategy, each turning a plan into one generator of effects a rank.

- `data_parallel`, `hybrid`, `parameter_server`, `local_sgd`, `shared_memory`, `grid_regression`, `collective_loop`: the
  strategies
- `strategy`: what each of them offers
- `groups`: which ranks communicate; `buckets`: which gradients travel together; `placement`: which samples a rank has
- `repartition`: which samples workers exchange before the first step
- `passes`, `exchange`: what a worker computes in a step, and how its gradients travel, compressed or not
- `mesh`, `sharers`: which rank is where in a product of parallelisms, and which ranks share a parameter
- `schedules`, `stage`: the order of microbatches in a pipeline, and what one stage computes
- `parts`, `pieces`, `script`: what a part of a stage does in each pass, of which pieces, and a rank's step as data
- `held`, `holding`, `units`: parameters that travel together, what is exchanged of them, and by which numbers
- `accounts`, `footprint`, `ledger`: what a rank holds all the time, for a part, and effect by effect
- `representative`: the pipeline that stands for all
- `client`, `server`, `server_messages`: the two sides of parameter servers, and what they say to each other
- `keys`, `hash_circle`, `touched`, `admission`: which server has which parameters, which a batch needs, and whom it
  answers when
- `neighbours`: with whom a worker gossips
- `dry_run`: what a program does, without doing it
"""

from twinstep.plan import Plan
from twinstep.programs.buckets import Bucket, fill_buckets
from twinstep.programs.collective_loop import CollectiveLoop
from twinstep.programs.data_parallel import DataParallel
from twinstep.programs.dry_run import first_steps
from twinstep.programs.grid_regression import GridRegression
from twinstep.programs.groups import Groups, own_names
from twinstep.programs.hybrid import Hybrid
from twinstep.programs.local_sgd import LocalSgd
from twinstep.programs.parameter_server import ParameterServer
from twinstep.programs.placement import shards
from twinstep.programs.repartition import moved
from twinstep.programs.representative import bubbles, representative_pipeline
from twinstep.programs.shared_memory import SharedMemory
from twinstep.programs.strategy import Strategy
from twinstep.workloads import CollectiveBench, Regression

__all__ = [
    "Bucket",
    "CollectiveLoop",
    "DataParallel",
    "GridRegression",
    "Groups",
    "Hybrid",
    "LocalSgd",
    "ParameterServer",
    "SharedMemory",
    "Strategy",
    "bubbles",
    "fill_buckets",
    "first_steps",
    "lower",
    "moved",
    "own_names",
    "representative_pipeline",
    "shards",
]


def lower(plan: Plan) -> Strategy:
    """Lower a plan to rank programs."""
    if isinstance(plan.workload, CollectiveBench):
        return CollectiveLoop(plan, plan.workload)
    if isinstance(plan.workload, Regression) and plan.partition.features > 1:
        return GridRegression(plan, plan.workload)
    if plan.sync.method == "parameter_server":
        return ParameterServer(plan)
    if plan.sync.method in ("local_sgd", "gossip"):
        return LocalSgd(plan)
    if plan.sync.method == "shared_memory":
        return SharedMemory(plan)
    return Hybrid(plan) if plan.is_hybrid else DataParallel(plan)
