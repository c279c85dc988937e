"""The executor: the same rank programs, run for real with torch.distributed.

`measure.py` is the entrance for one machine; it starts `supervisor.py` in a process of its own, which forks one
`worker.py` a rank and watches them. On a cluster torchrun starts `worker.py` directly. In a worker `engine.py` runs the
program on a `device.py`; `models.py`, `data.py` and `training.py` bind its effects to tensors. `calibrate.py` and the
modules it uses measure the machine. This module imports no torch, so that the command line can ask it to run things.
"""
