"""The supervisor of a run on an emulated cluster: builds it, forks ranks into its hosts, reads its counters.

The cluster is made before torch is imported: a user namespace, which whoever is not root needs, is made while there is
one thread alone.
"""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

from twinstep.errors import InputError, RunError
from twinstep.exec.crew import die_with_parent, say
from twinstep.exec.emulated.namespaces import become_able


def main(folder: Path) -> int:
    """Run the job described in `folder`; give 0 where every rank ended well, else 3."""
    try:
        become_able(partial(die_with_parent, os.getppid(), signal.SIGTERM))
        return _run(folder)
    except (InputError, RunError) as error:
        say(event="failed", message=str(error))
        return 3


def _run(folder: Path) -> int:
    from twinstep.exec.board import Board
    from twinstep.exec.emulated.awake import keep_cores_awake
    from twinstep.exec.emulated.blueprint import blueprint
    from twinstep.exec.emulated.builder import build
    from twinstep.exec.emulated.counters import Counters
    from twinstep.exec.emulated.others import Others
    from twinstep.exec.rank import read_job
    from twinstep.exec.supervisor import run_job, use_loopback

    keep_cores_awake()
    use_loopback()
    job = read_job(folder)
    topology, ranks = job.topology, job.plan.ranks
    cluster = build(blueprint(job.plan, topology))
    hosts = [cluster.namespaces[host] for host in (topology.device_hosts[index] for index in job.plan.devices)]
    others = Others(job.plan, topology, cluster, folder)
    board = Board(folder / "board", ranks, others.names)
    counters = Counters(cluster)

    def prepare(seat: int) -> None:
        if seat < ranks:
            hosts[seat].enter()
        else:
            others.run(seat - ranks, board)

    def count() -> None:
        (folder / "links.json").write_text(json.dumps(counters.report()))

    return run_job(job, folder, board, prepare, counters.sample, count)
