"""Lifelines: how a rank hears that another one has died.

The kernel closes the connections of a process that ends. Gloo then fails what waits for its turn on the connection, but
of a message that is partly written or read it tells nobody (torch 2.13), so that whoever waits for it would wait for
ever. A lifeline is a receive of a message that is never sent: it fails when the connection is closed, and all that is
under way with that rank fails with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import torch.distributed as dist

from twinstep.effects import Collective, Transfer
from twinstep.exec.pending import NEVER, Watch

Begin = Callable[[Collective | Transfer], dist.Work]
"""Calls torch.distributed."""

_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


class Lifelines:
    """The lifelines of a rank, one to each rank that it exchanges messages with."""

    def __init__(self, listen: Callable[[Transfer], dist.Work]) -> None:
        """Let `listen` begin a receive, from the peer of a message, of what is never sent."""
        self._listen = listen
        self._known: dict[int, _Lifeline] = {}

    def hold(self, effect: Transfer, watch: Watch) -> None:
        """Let all that a watch watches fail when the peer of a message dies, or has died."""
        if effect.peer not in self._known:
            self._known[effect.peer] = _Lifeline(begun_or_refused(self._listen, effect))
        self._known[effect.peer].hold(watch)


class _Lifeline:
    def __init__(self, work: dist.Work) -> None:
        self._work = work
        self._watches: set[Watch] = set()
        self._error: RuntimeError | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def hold(self, watch: Watch) -> None:
        with self._lock:
            if self._error:
                watch.break_off(self._error)
            self._watches.add(watch)

    def _run(self) -> None:
        try:
            self._work.wait(NEVER)
        except RuntimeError as error:
            with self._lock:
                self._error = error
                for watch in self._watches:
                    watch.break_off(error)


class _Refused:
    """Stands for the work of a communication that could not begin."""

    def __init__(self, error: RuntimeError) -> None:
        self._error = error

    def wait(self, timeout: object = None) -> None:
        """Raise what kept it from beginning."""
        del timeout
        raise self._error


def begun_or_refused(begin: Callable[[Transfer], dist.Work], effect: Transfer) -> dist.Work:
    """Begin a message; one whose connection is gone fails when it is waited for."""
    try:
        return begin(effect)
    except RuntimeError as error:
        return cast("dist.Work", _Refused(error))


def is_of_a_death(error: RuntimeError) -> bool:
    """Tell whether a communication failed since the process at the other end has gone."""
    return any(words in str(error) for words in _GONE)
