"""Reading payloads from a connector that copies them, through a cache that forgets the evicted."""

from __future__ import annotations

import threading
from weakref import WeakSet

from proxyflow.cache import PayloadCache
from proxyflow.connectors.protocol import Buffer, Connector, Key
from proxyflow.errors import StoreError
from proxyflow.forking import renew_in_child
from proxyflow.periodic import Periodic

__all__ = ["CachingReader"]

# What others evict is let go of after this many seconds at most.
_INTERVAL = 2.0


class CachingReader:
    """Gets payloads, keeping up to `capacity` bytes of them for the next reader.

    Parameters
    ----------
    connector
        Where the payloads are.
    capacity
        How many bytes to keep; 0 keeps nothing.

    Examples
    --------
    >>> from proxyflow.connectors.memory import MemoryConnector
    >>> with MemoryConnector() as connector:
    ...     reader = CachingReader(connector, 100)
    ...     key = connector.put(b"some bytes")
    ...     reader.get(key), reader.cache.nbytes
    ...     connector.evict(key)
    ...     reader.get(key), reader.cache.nbytes
    (b'some bytes', 10)
    (None, 0)
    """

    def __init__(self, connector: Connector, capacity: int) -> None:
        self.cache = PayloadCache(capacity)
        self._connector = connector

    def get(self, key: Key) -> Buffer | None:
        """Return the payload, not to be written to, or None if it is missing."""
        payload = self.cache.get(key)
        if payload is not None:
            if self._connector.exists(key):
                return payload
            self.cache.drop(key)
            return None
        payload = self._connector.get(key)
        if payload is not None and self.cache.capacity:
            self.cache.add(key, payload)
            _readers.watch(self)
        return payload

    def drop_evicted(self) -> bool:
        """Let go of what is not stored any more; return whether anything is left."""
        for key in self.cache.held():
            if not self._connector.exists(key):
                self.cache.drop(key)
        return bool(self.cache.nbytes)


class _Readers:
    """The readers of this process that hold something, looked after in the background."""

    def __init__(self) -> None:
        self._holding: WeakSet[CachingReader] = WeakSet()
        self._looking = Periodic("proxyflow-cache", _INTERVAL, self._look)
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        self._lock = threading.RLock()

    def watch(self, reader: CachingReader) -> None:
        with self._lock:
            self._holding.add(reader)
        self._looking.ensure_running()

    def _look(self) -> bool:
        with self._lock:
            holding = list(self._holding)
        for reader in holding:
            try:
                left = reader.drop_evicted()
            except (StoreError, OSError):
                # A store that does not answer now is asked again.
                continue
            if not left:
                with self._lock:
                    self._holding.discard(reader)
        return bool(self._holding)


_readers = _Readers()
