"""Waiting for a directory again and again, by several threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from proxyflow.storage.watch import DirectoryWatch

__all__ = ["Watches"]


class Watches:
    """Watches of one directory, kept from one wait to the next.

    The kernel may take 10 ms to end a watch, while a message waits.

    Parameters
    ----------
    path
        The directory.

    Examples
    --------
    >>> watches = Watches("/tmp")
    >>> watches.wait_until(lambda: True), watches.wait_until(lambda: False, 0.01)
    (True, False)
    >>> watches.close()
    """

    def __init__(self, path: str) -> None:
        self._idle: list[DirectoryWatch] = []
        self._path = path
        self._closed = False

    def wait_until(self, is_true: Callable[[], bool], timeout: float | None = None) -> bool:
        """Ask now, and whenever the directory may have changed; False if the time is up.

        Once a second it is asked in any case (see `DirectoryWatch`).
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if is_true():
            return True
        if timeout is not None and timeout <= 0:
            return False
        with self._watching() as watch:
            while not is_true():
                remaining = None if deadline is None else deadline - time.monotonic()
                if not watch.wait(remaining):
                    return False
        return True

    @contextlib.contextmanager
    def _watching(self) -> Iterator[DirectoryWatch]:
        try:
            watch = self._idle.pop()
        except IndexError:
            watch = DirectoryWatch(self._path)
        try:
            yield watch
        finally:
            # One is enough, unless several threads wait all the time.
            if self._closed or self._idle:
                watch.close()
            else:
                self._idle.append(watch)

    def close(self) -> None:
        """End the watches that nobody waits with; closing twice is no error."""
        self._closed = True
        # One by one: another thread may be taking one to wait with.
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def __del__(self) -> None:
        # Code written for gocept.filestore knows of no close().
        self.close()
