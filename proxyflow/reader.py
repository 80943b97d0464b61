"""Reading payloads from a connector that copies them, through a cache that forgets the evicted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from proxyflow.cache import PayloadCache
from proxyflow.connectors.protocol import Buffer, ChangeTeller, Connector, FreshReader, Key
from proxyflow.errors import StoreError
from proxyflow.forking import renew_in_child
from proxyflow.periodic import Periodic

__all__ = ["CachingReader"]

_LARGE = 256 * 1024
_REMEMBERED = 256
# What others evict is let go of after this many seconds at most.
_INTERVAL = 2.0


class CachingReader:
    """Gets payloads, keeping up to `capacity` bytes of them for the next reader.

    What a reader gets is its own, to be written to. So keeping a payload costs a copy: a large one
    is kept only when it is asked for a second time. An object that another process may replace is
    never kept, where the connector can tell: that a key exists says nothing of what lies there.

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
    ...     bytes(reader.get(key)), reader.cache.nbytes
    ...     connector.evict(key)
    ...     reader.get(key), reader.cache.nbytes
    (b'some bytes', 10)
    (None, 0)
    """

    def __init__(self, connector: Connector, capacity: int) -> None:
        self.cache = PayloadCache(capacity)
        self._connector = connector
        self._fresh = connector if isinstance(connector, FreshReader) else None
        self._may_change: Callable[[Key], bool] = (
            connector.may_change if isinstance(connector, ChangeTeller) else lambda key: False
        )
        # Large ones that were read once; the oldest is forgotten first.
        self._seen: deque[Key] = deque(maxlen=_REMEMBERED)

    def get(self, key: Key) -> memoryview | None:
        """Return the payload, in memory of the caller's own; None if it is missing."""
        if not _is_hashable(key):
            # For the connector to refuse.
            found = self._connector.get(key)
            return None if found is None else memoryview(bytearray(found))
        held = self.cache.get(key)
        if held is None:
            with self.cache.reading(key) as keep:
                return self._read(key, keep)
        if self._connector.exists(key):
            return memoryview(bytearray(held))
        self.cache.drop(key)
        return None

    def forget(self, key: Key) -> None:
        """Let go of an object that has been replaced or removed."""
        if _is_hashable(key):
            self.cache.drop(key)

    def _read(self, key: Key, keep: Callable[[Buffer], None]) -> memoryview | None:
        if self._fresh is None:
            payload = self._connector.get(key)
            if payload is not None and not self._may_change(key):
                self._keep(keep, payload)
            return None if payload is None else memoryview(bytearray(payload))
        view = self._fresh.get_fresh(key)
        if view is not None and self._is_worth_a_copy(key, view.nbytes):
            self._keep(keep, bytes(view))
        return view

    def _is_worth_a_copy(self, key: Key, nbytes: int) -> bool:
        if not nbytes <= self.cache.capacity or self._may_change(key):
            return False
        if nbytes < _LARGE or key in self._seen:
            return True
        self._seen.append(key)
        return False

    def _keep(self, keep: Callable[[Buffer], None], payload: Buffer) -> None:
        if self.cache.capacity:
            keep(payload)
            _readers.watch(self)

    def drop_evicted(self) -> bool:
        """Let go of what is not stored any more; return whether anything is left."""
        for key in self.cache.held():
            if not self._connector.exists(key):
                self.cache.drop(key)
        return bool(self.cache.nbytes)


def _is_hashable(key: Key) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


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
