"""Learning: small models that really train where compute is emulated, in the simulator and in the executor alike.

- `data`: real data sets, as arrays; `models`: losses and gradients; `optimizers`: updates
- `learners`: what a worker and a parameter server hold and do

Both back ends run these functions inside the rank programs, so what a program learns depends on the order of its
messages alone. Torch has no part in it: `tests/test_learning.py` holds the gradients against torch's.
"""

from twinstep.learning.learners import ServerLearner, WorkerLearner, server_learner, worker_learner

__all__ = ["ServerLearner", "WorkerLearner", "server_learner", "worker_learner"]
