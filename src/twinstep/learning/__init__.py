"""Learning: small models that really train where compute is emulated, in the simulator and in the executor alike.

- `data`, `samples`: real data sets, as arrays, and what of them a worker computes
- `models`, `optimizers`: losses and gradients, updates; `threads`: how many of them compute
- `learners`, `local`: what a worker and a parameter server hold and do, and a worker that averages with others
- `sparse`: a worker and a parameter server that exchange what a batch touches
- `shared`: what the workers of one host share, and what each of them does
- `replica`: what a rank of data parallelism holds; `codecs`: gradients as they are sent
- `grid`: what a rank of a regression holds whose features are shared out

Both back ends run these functions inside the rank programs, so what a program learns depends on the order of its
messages alone. Torch has no part in it: `tests/test_learning.py` holds the gradients against torch's.
"""

from twinstep.learning.grid import GridLearner, grid_learner
from twinstep.learning.learners import ServerLearner, WorkerLearner, server_learner, worker_learner
from twinstep.learning.local import LocalLearner, local_learner
from twinstep.learning.replica import ReplicaLearner, replica_learner
from twinstep.learning.samples import SAMPLE_BYTES, Samples, Share
from twinstep.learning.shared import Shared, SharedLearner, shared_learner
from twinstep.learning.sparse import sparse_server, sparse_worker

__all__ = [
    "SAMPLE_BYTES",
    "GridLearner",
    "LocalLearner",
    "ReplicaLearner",
    "Samples",
    "ServerLearner",
    "Share",
    "Shared",
    "SharedLearner",
    "WorkerLearner",
    "grid_learner",
    "local_learner",
    "replica_learner",
    "server_learner",
    "shared_learner",
    "sparse_server",
    "sparse_worker",
    "worker_learner",
]
