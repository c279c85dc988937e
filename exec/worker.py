"""A rank that torchrun, Slurm or Kubernetes has started on a cluster.

It obeys torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT); rank 0
writes the output folder. The ranks need a private network: torch's rendezvous and gloo have no access control.

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --master-addr HOST0 -m twinstep.exec.worker SCENARIO --out DIR
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import torch.distributed as dist
import typer
from rich.console import Console

from twinstep import workflow
from twinstep.errors import InputError
from twinstep.exec.board import Board
from twinstep.exec.rank import Job, run_rank
from twinstep.exec.records import Records, memory_of, timeline_of
from twinstep.plan import Plan
from twinstep.profile import read_profile
from twinstep.programs import lower
from twinstep.report.files import write_outputs
from twinstep.report.terminal import show
from twinstep.scenario import load_scenario


def work(
    scenario: str,
    out: Annotated[Path, typer.Option("--out", help="Output folder, written by rank 0.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    profile: Annotated[Path | None, typer.Option("--profile", help="Needed for emulated cpu devices.")] = None,
) -> None:
    """Run one rank of a scenario in the environment that torchrun sets."""
    loaded = load_scenario(scenario, overrides or ())
    known = read_profile(profile) if profile else None
    plan = loaded.plan
    _check(plan)
    rank, world_size = _variable("RANK"), _variable("WORLD_SIZE")
    if world_size != plan.ranks:
        raise InputError(
            f"the launcher started {world_size} ranks, but the plan has {plan.ranks}",
            remedy=f"start {plan.ranks} ranks, or give --set partition.data={world_size}",
        )
    job = Job(
        lower(plan), loaded.topology, known, one_machine=_variable("LOCAL_WORLD_SIZE") == world_size, supervised=False
    )
    store, *_ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=plan.run.timeout))))
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        seat = Board(Path(folder) / "board", 1).seat(0)
        store = dist.PrefixStore("twinstep", store)
        own = run_rank(job, rank, store, seat, dist.barrier, local_rank=_variable("LOCAL_RANK")).records
    if rank:
        store.set(f"records/{rank}", json.dumps(own))
        return
    records = {0: own} | {other: Records.from_json(store.get(f"records/{other}")) for other in range(1, plan.ranks)}
    found = workflow.measurement(loaded, timeline_of(plan, records), own.losses, memory_of(records))
    shown = workflow.contents(loaded, known, None, found)
    write_outputs(out, shown, html=False)
    show(shown, Console())


def _check(plan: Plan) -> None:
    """Refuse what ranks that a launcher has started cannot do."""
    if plan.is_on_emulated_cluster:
        raise InputError("run.backend is emulated, which `twinstep measure` builds", remedy="set it to local")
    if plan.sync.method == "shared_memory":
        problem = "sync.method is shared_memory, which ranks that a launcher has started do not have"
        raise InputError(problem, remedy="use `twinstep measure`, which forks all workers from one process")
    if plan.run.deaths:
        problem = "run.deaths needs somebody who lets the others go on"
        raise InputError(problem, remedy="use `twinstep measure`, which watches all ranks")
    if plan.predicted_only:
        raise InputError(f"the plan can only be predicted: {plan.predicted_only}", remedy="use `twinstep predict`")


def _variable(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise InputError(f"the environment has {name}={text!r}", remedy="start this module by torchrun")
    return int(text)


def main() -> None:
    """Run the rank; bad input becomes one message and exit code 2."""
    try:
        typer.run(work)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
