"""Threads: products of small matrices take one thread; several wait for one another on cores that others need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let the libraries of linear algebra use one thread, as they do on every rank that is executed."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
