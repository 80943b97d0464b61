"""Advisory locks on local files that a killed process cannot leave behind.

``flock`` belongs to an open file description, and a forked child inherits that: were the copy in
the child left open, the lock would outlive its owner. So a child closes its copies at once.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref

__all__ = ["FileLock"]

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()

FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.02


class FileLock:
    """A lock on the file `path`, made if missing; held from construction to `release()`.

    Parameters
    ----------
    path
        The file; its directory must exist.
    shared
        Whether others may hold it shared at the same time.
    timeout
        How many seconds to wait for others; 0 tries once.
    transient
        Whether the last to let go removes the file.

    Raises
    ------
    TimeoutError
        If others still hold the lock after `timeout` seconds.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as where:
    ...     with FileLock(where + "/lock"):
    ...         FileLock(where + "/lock", timeout=0)
    Traceback (most recent call last):
    ...
    TimeoutError: ... is locked by another process
    """

    def __init__(
        self, path: str, *, shared: bool = False, timeout: float = 0, transient: bool = False
    ) -> None:
        self.path = path
        self._transient = transient
        self._fd = -1
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while not self._try(kind):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{path} is locked by another process")
            time.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)
        _held.add(self)

    def _try(self, kind: int) -> bool:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                # The holder before may have removed the file: then this lock is on a file that
                # the next process will not find, and nobody holds the one it will.
                if _same_file(fd, self.path):
                    self._fd, fd = fd, -1
                    return True
            except BlockingIOError:
                return False
            finally:
                if fd >= 0:
                    os.close(fd)

    def remove(self) -> None:
        """Remove the file while holding it, then let go."""
        try:
            if self._fd >= 0:
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # the folder it was in has been deleted as a whole
        finally:
            self.release()

    def release(self) -> None:
        """Let go; doing so twice is allowed."""
        fd, self._fd = self._fd, -1
        _held.discard(self)
        if fd >= 0:
            if self._transient:
                _remove_if_last(fd, self.path)
            # Unlocked by name, not merely closed: a child forked a moment ago may hold a copy.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def forget(self) -> None:
        """Close a forked child's copy without unlocking what the parent holds."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_if_last(fd: int, path: str) -> None:
    """Remove the file of a lock that is let go, unless others hold or want it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # To become exclusive a shared lock may be given up for a moment, in which another holder
        # may have removed the file, and a third made a new one.
        if _same_file(fd, path):
            os.unlink(path)
    except OSError:
        # Somebody else holds it and will remove it; or it stays, being of use to the next.
        return


def _forget_in_child() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
