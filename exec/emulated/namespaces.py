"""Network namespaces without names: each lives as long as somebody holds its file descriptor, or runs in it.

When the last holder ends, however it ends, the kernel removes the namespace with all that is in it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeVar

from twinstep.errors import RunError

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_TOOL_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_TOOL_TIMEOUT_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class Namespace:
    """A network namespace, held by a file descriptor that forks inherit."""

    def __init__(self) -> None:
        """Make a new one, and stay in it."""
        try:
            _call(_libc.unshare, _CLONE_NEWNET)
            self._descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            remedy = "raise user.max_net_namespaces or the limit of open files"
            raise RunError(f"cannot make a network namespace: {error.strerror}: {remedy}") from None

    @property
    def path(self) -> str:
        """A path by which other processes of this user find it while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def enter(self) -> None:
        """Move the calling thread into it."""
        _call(_libc.setns, self._descriptor, _CLONE_NEWNET)

    def run(self, tool: str, commands: Sequence[str], *options: str) -> str:
        """Let `ip` or `tc` carry out commands in it, a line each; give what it prints. Raises RunError."""
        self.enter()
        try:
            done = subprocess.run(
                [tool, *options, "-batch", "-"],
                input="\n".join([*commands, ""]),
                env={"PATH": _TOOL_PATH},
                capture_output=True,
                text=True,
                timeout=_TOOL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"`{tool}` did not end within {_TOOL_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise RunError(f"cannot run `{tool}`: {error.strerror}: install iproute2") from None
        if done.returncode:
            raise RunError(f"`{tool}` failed: {' '.join(done.stderr.split())}")
        return done.stdout

    def look(self, find: Callable[[], T]) -> T:
        """Call a function in it."""
        self.enter()
        return find()

    def set(self, setting: str, value: object) -> None:
        """Set one of /proc/sys/net in it. Raises RunError where the kernel refuses."""
        self.enter()
        try:
            with open(f"/proc/sys/net/{setting}", "w", encoding="ascii") as file:
                file.write(str(value))
        except OSError as error:
            raise RunError(f"cannot set net/{setting} to {value}: {error.strerror}") from None


def become_able(die_with_parent: Callable[[], None]) -> None:
    """Gain what making namespaces takes: nothing as root, else a user namespace of one's own.

    Must be called before any thread starts. `die_with_parent` is called again afterwards: the kernel forgets that
    wish when credentials change. Raises RunError, with the remedy, where the kernel allows neither.
    """
    if _may_unshare():
        return
    user, group = os.geteuid(), os.getegid()
    try:
        _call(_libc.unshare, _CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
    except OSError as error:
        raise RunError(
            f"this user may not make network namespaces: {error.strerror}: be root, or allow user namespaces "
            "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
            "kernel.apparmor_restrict_unprivileged_userns)"
        ) from None
    die_with_parent()


def _may_unshare() -> bool:
    """Tell whether a child of this process may make a network namespace."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc.unshare(_CLONE_NEWNET) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
