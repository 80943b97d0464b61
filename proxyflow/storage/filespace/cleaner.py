"""Deleting contents in the background: a sync has succeeded before, and need not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .errors import HubError

__all__ = ["Cleaner"]

# Who publishes faster than the file system deletes waits for it: space must not run out meanwhile.
MOST_WAITING = 32


class Cleaner:
    """Deletes for one client, in one thread that is started when there is something to delete.

    To give back the room of a file takes the file system as long as all else in a small sync. What
    is not deleted, the process having been killed or the hub having gone away, others still know:
    it stays listed in the head until `done` has been called.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def delete(self, delete: Callable[[], None], done: Callable[[], None]) -> None:
        """Call `delete`, then, if it succeeds, `done`; one thread at a time calls this."""

        def work() -> None:
            try:
                delete()
            except HubError:
                return
            done()

        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "filespace-cleaner")
        try:
            self._waiting.append(self._pool.submit(work))
        except RuntimeError:
            # At the interpreter's end, when stores are closed that nobody has closed.
            work()
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > MOST_WAITING):
            self._waiting.popleft().result()

    def close(self) -> None:
        """Wait until everything is deleted."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
