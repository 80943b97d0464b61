"""Locks between processes and threads of one host: ``flock`` on a file.

Every acquisition opens the lock file anew, so two threads exclude each other as two processes do,
and the kernel releases the lock of a killed process.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["file_lock"]

# A child forked while another thread holds a lock inherits its descriptor, and with it would keep
# the lock alive should the parent be killed. So the child closes what it inherited.
_held: set[int] = set()
_held_guard = threading.Lock()


def _forget_inherited() -> None:
    for fd in _held:
        os.close(fd)
    _held.clear()
    _held_guard.release()


os.register_at_fork(
    before=_held_guard.acquire,
    after_in_parent=_held_guard.release,
    after_in_child=_forget_inherited,
)


@contextmanager
def file_lock(path: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold the exclusive lock on `path`, which is created when missing.

    Yields
    ------
    bool
        Whether the lock is held; always ``True`` with `wait`.

    Raises
    ------
    OSError
        The file cannot be opened, or its file system has no locks.
    """
    with _held_guard:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _held.add(fd)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        with _held_guard:
            _held.discard(fd)
            # Unlocking by hand, as closing does not unlock while a forked child has the file open.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
