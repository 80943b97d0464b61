"""A lock that knows whether the current thread holds it.

The garbage collector closes a forgotten open file at any point of any thread, also in the middle
of an operation on the client the file belongs to. What closing has to do must then wait until
that operation is over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """A reentrant lock, and what is to be done when its holder lets go.

    Examples
    --------
    >>> turns = Turns()
    >>> with turns:
    ...     turns.when_free(lambda: print("after"))
    ...     print("during")
    during
    after
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner, self._depth = 0, 0
        self._deferred: deque[Callable[[], None]] = deque()

    def when_free(self, work: Callable[[], None]) -> None:
        """Do `work` now, or if this thread holds the lock, when it lets go."""
        if self._owner == threading.get_ident():
            self._deferred.append(work)
        else:
            work()

    def __enter__(self) -> Turns:
        self._lock.acquire()
        self._owner, self._depth = threading.get_ident(), self._depth + 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._depth:
            self._lock.release()
            return
        self._owner = 0
        work = list(self._deferred)
        self._deferred.clear()
        self._lock.release()
        for one in work:
            one()
