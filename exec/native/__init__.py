"""The native engine: torch's own wrappers train the model, and what they do is noted.

`tensor.py` and `context.py` share a GPT's layers among tensor-parallel and context-parallel ranks.
"""
