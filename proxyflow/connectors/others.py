"""Sessions of other runs that keys have led to, kept open for the next such key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from proxyflow.forking import renew_in_child

__all__ = ["OtherSessions"]

T = TypeVar("T")

# Of how many sessions the directories are kept open.
_MOST = 16


class OtherSessions(Generic[T]):
    """The latest few sessions joined besides a connector's own.

    Parameters
    ----------
    join
        Opens a session by its name.

    Examples
    --------
    >>> sessions = OtherSessions(list)
    >>> sessions.get("abc") is sessions.get("abc")
    True
    >>> sessions.take_all(), sessions.take_all()
    ([['a', 'b', 'c']], [])
    """

    def __init__(self, join: Callable[[str], T]) -> None:
        self._join = join
        self._joined: dict[str, T] = {}
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold."""
        # Re-entrant: the garbage collector may evict something in the midst of it.
        self._lock = threading.RLock()

    def get(self, name: str) -> T:
        """Return a session, joined when it has not been; raises what joining does."""
        with self._lock:
            joined = self._joined.get(name)
            if joined is None:
                if len(self._joined) >= _MOST:
                    # Not closed: another thread may be reading from it. It goes when nobody does.
                    del self._joined[next(iter(self._joined))]
                joined = self._joined[name] = self._join(name)
            return joined

    def take_all(self) -> list[T]:
        """Return all of them, which are then no longer kept."""
        with self._lock:
            joined, self._joined = list(self._joined.values()), {}
        return joined
