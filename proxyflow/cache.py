"""A cache of payloads that came over a network, bounded in bytes.

What is kept is the stored bytes, not the object made of them: each reader gets an object of its
own, so a task that writes to its argument does not change what the next task sees. A store that
maps its objects needs no cache and has none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from proxyflow.connectors.protocol import Buffer
from proxyflow.forking import renew_in_child

__all__ = ["PayloadCache"]


class PayloadCache:
    """The most recently used payloads, up to `capacity` bytes.

    Examples
    --------
    >>> cache = PayloadCache(100)
    >>> cache.add("a", bytes(60)); cache.add("b", bytes(60))
    >>> cache.get("a") is None, len(cache.get("b")), cache.nbytes
    (True, 60, 60)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[Hashable, Buffer] = OrderedDict()
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Replace the lock; a thread of the parent may have left the sum half done."""
        # Re-entrant: letting go of one payload may run a finalizer that drops another one.
        self._lock = threading.RLock()
        self._readings: dict[Hashable, object] = {}
        self.nbytes = sum(map(len, self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def held(self) -> list[Hashable]:
        """Return the keys that are held, least recently used first."""
        with self._lock:
            return list(self._entries)

    def get(self, key: Hashable) -> Buffer | None:
        """Return the payload, or None."""
        with self._lock:
            payload = self._entries.get(key)
            if payload is not None:
                self._entries.move_to_end(key)
            return payload

    @contextmanager
    def reading(self, key: Hashable) -> Iterator[Callable[[Buffer], None]]:
        """Yield what adds the payload that is read in the block.

        One whose key is dropped while it is being read is an old one, and not held.
        """
        with self._lock:
            ours = self._readings.setdefault(key, object())

        def add(payload: Buffer) -> None:
            with self._lock:
                if self._readings.get(key) is ours:
                    self.add(key, payload)

        try:
            yield add
        finally:
            with self._lock:
                if self._readings.get(key) is ours:
                    del self._readings[key]

    def add(self, key: Hashable, payload: Buffer) -> None:
        """Hold a payload, letting go of the least recently used ones; too large a one is not."""
        size = len(payload)
        with self._lock:
            self._drop(key)
            if size > self.capacity:
                return
            self._entries[key] = payload
            self.nbytes += size
            while self.nbytes > self.capacity:
                self._drop(next(iter(self._entries)))

    def drop(self, key: Hashable) -> None:
        """Let go of a payload, and do not hold what is being read of it now."""
        with self._lock:
            self._readings.pop(key, None)
            self._drop(key)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0

    def _drop(self, key: Hashable) -> None:
        payload = self._entries.pop(key, None)
        if payload is not None:
            self.nbytes -= len(payload)
