"""The native engine: torch's own wrappers train the model, and what they do is noted.

`training.py` is the loop. `mesh.py` says which rank is where, `data_sharing.py` applies DistributedDataParallel,
ZeroRedundancyOptimizer or fully_shard, `tensor.py` and `context.py` share layers among tensor-parallel and
context-parallel ranks, `pipeline.py` cuts the model into the stages of torch.distributed.pipelining, whose passes
`slots.py` tells, and `accumulation.py` runs the microbatches of a step where there is no pipeline.

`collectives.py` sees every operation that torch gives to a process group, `layers.py` sees every layer's passes, and
`recorder.py` makes spans of both, with the times of `clock.py` and the names of `group_names.py`.
"""
