"""The native engine: torch's own wrappers train a GPT, and what they do is noted.

`pipeline.py` cuts the GPT into the stages of torch.distributed.pipelining and gives their schedule; `slots.py` says
which pass of which microbatch torch is at.
"""
