"""Who owns a session: a small record, and a lock on it that the owner holds while it lives.

The record lies in the session's directory. A forked child does not own what its parent owns, so it
gives back the copies of the locks that it inherits.

The lock is a shared one: other processes may hold the session besides the one that started it. To
remove it takes an exclusive lock, which is to be had only when all of them are gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import socket
import threading
import time
from typing import Any

__all__ = ["RECORD", "boot_id", "locks", "new_record", "read_record", "try_lock", "write_record"]

RECORD = ".owner"
"""Name of the record in the session's directory."""

_LONGEST = 4096


class _Locks:
    """The descriptors this process holds locks with.

    A lock lives as long as any copy of its descriptor: a child that kept one would make a killed
    parent look alive for as long as the child runs.
    """

    def __init__(self) -> None:
        self._descriptors: set[int] = set()
        # Re-entrant: a finalizer may close one while its own thread opens another.
        self._guard = threading.RLock()
        os.register_at_fork(
            before=self._guard_fork,
            after_in_parent=self._after_in_parent,
            after_in_child=self._after_in_child,
        )

    def open(self, path: str, flags: int, directory: int | None = None) -> int:
        """Open a record; no fork happens between that and taking note of it."""
        with self._guard:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
            self._descriptors.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close a record, which gives its lock back."""
        with self._guard:
            self._descriptors.remove(descriptor)
            os.close(descriptor)

    def _guard_fork(self) -> None:
        self._guard.acquire()

    def _after_in_parent(self) -> None:
        self._guard.release()

    def _after_in_child(self) -> None:
        self._guard = threading.RLock()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


locks = _Locks()
"""Those of this process."""


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock a record; False if another process is in the way, None where locks are not to be had.

    Parameters
    ----------
    descriptor
        The record.
    shared
        Whether others may have a shared lock on it, too.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of this host from every other."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return socket.gethostname()


def new_record(*, keep: bool) -> dict[str, Any]:
    """Return the record of a session this process is about to own.

    Parameters
    ----------
    keep
        Whether the session outlives its owner: nobody sweeps it.
    """
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": boot_id(),
        "created": time.time(),
        "keep": keep,
    }


def write_record(descriptor: int, record: dict[str, Any]) -> None:
    """Write a record, in one call; it never gets shorter than what it replaces."""
    os.pwrite(descriptor, json.dumps(record).encode().ljust(os.fstat(descriptor).st_size), 0)


def read_record(descriptor: int) -> dict[str, Any] | None:
    """Return a record; an empty one if a power failure took it, None if it is something else."""
    data = os.pread(descriptor, _LONGEST, 0)
    if not data:
        return {}
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "boot" in record else None
