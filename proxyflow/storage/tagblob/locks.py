"""Locks between processes and threads of one host: ``flock`` on a file.

Every acquisition opens the lock file anew, so two threads exclude each other as two processes do,
and the kernel releases the lock of a killed process.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable

__all__ = ["FileLock"]

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


class FileLock:
    """The exclusive lock on a file, which is created when missing; a context manager.

    Entering tells whether the lock is held, which is always so with `wait`.

    Parameters
    ----------
    path
        The file.
    wait
        Whether to wait while somebody else holds it.
    prepare
        Makes the directory of the file if that is missing.

    Raises
    ------
    OSError
        The file cannot be opened, or its file system has no locks.
    """

    __slots__ = ("_fd", "_path", "_prepare", "_wait")

    def __init__(
        self, path: str, *, wait: bool = True, prepare: Callable[[], None] | None = None
    ) -> None:
        self._path = path
        self._wait = wait
        self._prepare = prepare
        self._fd = -1

    def __enter__(self) -> bool:
        try:
            self._open()
        except FileNotFoundError:
            if self._prepare is None:
                raise
            self._prepare()
            self._open()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except BaseException:
            self._close()
            raise
        return True

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _open(self) -> None:
        with _held_guard:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _held.add(self._fd)

    def _close(self) -> None:
        with _held_guard:
            _held.discard(self._fd)
            # Unlocking by hand, as closing does not unlock while a forked child has the file open.
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            finally:
                os.close(self._fd)
