"""What the stored objects look like at a glimpse, and those that are being stored."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Glimpses"]


class Glimpses:
    """Tells in no time that an object cannot be equal to any that is stored, or being stored.

    A glimpse (`proxyflow.serialize.Payload.glimpse`) is the same for equal content: an object that
    looks like no other needs no digest before it is written.

    Examples
    --------
    >>> glimpses = Glimpses()
    >>> glimpses.begin(17), glimpses.begin(17)
    (True, False)
    >>> glimpses.add(17)
    >>> glimpses.end(17)
    >>> glimpses.begin(17)
    False
    """

    def __init__(self) -> None:
        self._stored: Counter[int] = Counter()
        self._beginning: dict[int, threading.Event] = {}
        # Re-entrant: a release may be run by the garbage collector in the midst of another one.
        self._lock = threading.RLock()

    def begin(self, glimpse: int) -> bool:
        """Begin to store an object, if none looks like it; :meth:`end` must follow."""
        with self._lock:
            if glimpse in self._stored or glimpse in self._beginning:
                return False
            self._beginning[glimpse] = threading.Event()
            return True

    def end(self, glimpse: int) -> None:
        """Let go on who waits for one that looks the same."""
        with self._lock:
            self._beginning.pop(glimpse).set()

    def wait(self, glimpse: int) -> None:
        """Wait until nobody is storing an object that looks like this."""
        while (beginning := self._beginning.get(glimpse)) is not None:
            beginning.wait()

    def add(self, glimpse: int) -> None:
        """Count an object."""
        with self._lock:
            self._stored[glimpse] += 1

    def discard(self, glimpse: int) -> None:
        """Count an object no more."""
        with self._lock:
            self._stored[glimpse] -= 1
            if not self._stored[glimpse]:
                del self._stored[glimpse]
