"""The executor: the same rank programs, run for real with torch.distributed.

`measure.py` is the entrance for one machine: it starts `supervisor.py` in a process of its own, which forks a `crew.py`
of ranks and watches what each notes on the `board.py`. On a cluster torchrun starts `worker.py`, a process a rank. A
rank (`rank.py`) has an `engine.py` that runs its program on a `device.py`; `training.py`, `models.py` and `data.py`
bind its effects to tensors. `calibration.py` measures this machine with `kernel_timing.py`, `gloo_timing.py` and
`overheads.py`; by `reference.py` it and ranks tell how fast cores are. With emulated compute `calls.py` turns effects
into calls of torch, and `pending.py` is what is under way. `emulated/` runs ranks in a network of namespaces, `native/`
trains with torch's own wrappers. `measure.py`, and what it and `emulated/blueprint.py` import, do without torch.
"""
