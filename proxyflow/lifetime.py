"""Who may still need an object; eviction; what a dead owner left behind."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any

from proxyflow.config import as_url, default_url
from proxyflow.connectors import connector_class
from proxyflow.connectors.protocol import Key
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import StoreClosedError, UnsupportedError
from proxyflow.glimpses import Glimpses
from proxyflow.options import NAMES

if TYPE_CHECKING:
    from proxyflow.serialize import Payload
    from proxyflow.store import Store

__all__ = ["References", "gc"]

_log = logging.getLogger("proxyflow")


class _Object:
    """One stored object and how many still need it."""

    __slots__ = ("count", "digest", "glimpse", "key", "ready")

    def __init__(self, digest: bytes, glimpse: int) -> None:
        self.digest = digest
        self.glimpse = glimpse
        self.count = 1
        self.key: Key = None
        self.ready = threading.Event()


class References:
    """Counts who still needs each object of a store; evicts what nobody needs.

    One for each open store of a process, :attr:`Store.references`, whoever submits through it. A
    forked child has one of its own: what its parent counted is not the child's to evict, nor can
    the child rely on it.

    Equal content is stored once and counted. What is equal is decided by the digest of the
    content at the moment it is passed on, so an array that is changed between two calls becomes
    two objects. One that no stored object resembles at a glimpse is digested while it is written.

    Parameters
    ----------
    store
        The store.

    Examples
    --------
    >>> from proxyflow import Store
    >>> with Store("memory://") as store:
    ...     references = store.references
    ...     first, second = references.acquire("text"), references.acquire("text")
    ...     len(references), len(list(store.scan()))
    ...     references.release([first, second])
    ...     len(list(store.scan()))
    (1, 1)
    0
    """

    def __init__(self, store: Store) -> None:
        self.pid = os.getpid()
        self._store = store
        self._by_digest: dict[bytes, _Object] = {}
        self._by_key: dict[Key, _Object] = {}
        self._glimpses = Glimpses()
        self._tickets = count(1)
        self._asking: set[int] = set()
        self._undecided: dict[Key, int] = {}
        # Re-entrant: a release may be run by the garbage collector in the midst of another one.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._by_key)

    def acquire(self, obj: Any, payload: Payload | None = None) -> Key:
        """Store an object unless equal content is stored already; return its key, counted once.

        Parameters
        ----------
        obj
            The object.
        payload
            The same object encoded by the store, if that has been done.

        Raises
        ------
        StoreFullError
            If there is no room.
        """
        ticket = self._ask()
        mine = False
        try:
            try:
                if payload is None:
                    payload = self._store.encode(obj)
                entry, mine = self._enter(payload)
            finally:
                self._answered(ticket)
        except BaseException:
            # Interrupted while it evicted something else.
            if mine:
                self._abandon(entry)
            raise
        while not mine:
            # Another thread may be storing the same content right now.
            entry.ready.wait()
            if entry.key is not None:
                return entry.key
            entry, mine = self._claim(payload.digest, payload.glimpse)
        return self._write(entry, payload)

    def _enter(self, payload: Payload) -> tuple[_Object, bool]:
        """Count an object; return its entry, and whether it is for the caller to store it.

        One that nothing stored looks like has been stored then, and digested on the way.
        """
        glimpse = payload.glimpse
        if payload.sealed or not self._store.writes_in_place or not self._glimpses.begin(glimpse):
            digest = payload.digest
            self._glimpses.wait(glimpse)
            return self._claim(digest, glimpse)
        try:
            key = self._store.write(payload)
            entry, mine = self._claim(payload.digest, glimpse)
        finally:
            self._glimpses.end(glimpse)
        if mine:
            self._announce(entry, key)
        else:
            # A task has come back with the same in these milliseconds.
            self.evict(key)
        return entry, False

    def _ask(self) -> int:
        """Announce that somebody is finding out whether he needs an object there is.

        The digest of a large array takes milliseconds; a task that got the same array before may
        end in them. Its object, which nobody needs just then, is kept until the answer.
        """
        with self._lock:
            ticket = next(self._tickets)
            self._asking.add(ticket)
        return ticket

    def _answered(self, ticket: int) -> None:
        gone = []
        with self._lock:
            self._asking.discard(ticket)
            oldest = min(self._asking, default=None)
            for key, latest in list(self._undecided.items()):
                if oldest is None or oldest > latest:
                    del self._undecided[key]
                    if self._by_key[key].count == 0:
                        self._drop(key)
                        gone.append(key)
        for key in gone:
            self.evict(key)

    def _claim(self, digest: bytes, glimpse: int) -> tuple[_Object, bool]:
        with self._lock:
            entry = self._by_digest.get(digest)
            if entry is not None:
                entry.count += 1
                return entry, False
            entry = self._by_digest[digest] = _Object(digest, glimpse)
            self._glimpses.add(glimpse)
            return entry, True

    def _write(self, entry: _Object, payload: Payload) -> Key:
        try:
            return self._announce(entry, self._store.write(payload))
        except BaseException:
            self._abandon(entry)
            raise

    def _announce(self, entry: _Object, key: Key) -> Key:
        with self._lock:
            entry.key = key
            self._by_key[key] = entry
        entry.ready.set()
        return key

    def _abandon(self, entry: _Object) -> None:
        """Leave it to the next who needs that content to store it."""
        with self._lock:
            self._forget(entry)
        entry.ready.set()

    def adopt(self, key: Key, digest: bytes, glimpse: int) -> None:
        """Count an object that another process stored: a task's result."""
        with self._lock:
            entry = _Object(digest, glimpse)
            entry.key = key
            entry.ready.set()
            self._by_key[key] = entry
            self._by_digest.setdefault(digest, entry)
            self._glimpses.add(glimpse)

    def retain(self, keys: Iterable[Key]) -> None:
        """Count each key, which somebody holds already, once more."""
        with self._lock:
            for key in keys:
                self._by_key[key].count += 1

    def release(self, keys: Iterable[Key]) -> None:
        """Give back one count of each key; evict what nobody needs any more."""
        if os.getpid() != self.pid:
            # A copy in a forked child, dropped by its garbage collector.
            return
        gone = []
        with self._lock:
            for key in keys:
                entry = self._by_key.get(key)
                if entry is None:
                    continue
                entry.count -= 1
                if entry.count > 0:
                    continue
                if self._asking:
                    self._undecided[key] = max(self._asking)
                else:
                    self._drop(key)
                    gone.append(key)
        for key in gone:
            self.evict(key)

    def _drop(self, key: Key) -> None:
        self._forget(self._by_key.pop(key))

    def _forget(self, entry: _Object) -> None:
        if self._by_digest.get(entry.digest) is entry:
            del self._by_digest[entry.digest]
        self._glimpses.discard(entry.glimpse)

    def evict(self, key: Key) -> None:
        """Remove an object, counted or not.

        Runs where a failure has nobody to go to (an executor's own thread, the garbage collector)
        and must not keep a task's outcome from being announced: it is logged, and the object goes
        with its session.
        """
        try:
            self._store.evict(key)
        except StoreClosedError:
            # The session has ended, and its objects with it.
            return
        except Exception as error:  # noqa: BLE001 - ProxyStore's connectors raise what their clients do
            _log.warning("could not evict %r from %s: %r", key, self._store.name, error)


def gc(url: str | StoreURL | os.PathLike[str] | None = None) -> list[str]:
    """Remove what killed processes left in a store, and nothing else.

    Opening a store does the same; this is for a cron job, or for looking.

    Parameters
    ----------
    url
        Which store; by default the one ``Store()`` uses.

    Returns
    -------
    list of str
        The names of the sessions that were removed: those whose owner is dead.

    Raises
    ------
    StoreUnreachableError
        If the store cannot be read, or a dead session not removed.
    UnsupportedError
        If its connector cannot tell what dead owners left behind.

    Examples
    --------
    >>> import proxyflow
    >>> with proxyflow.Store() as store:
    ...     key = store.put("still needed")
    ...     store.session in proxyflow.gc()
    False
    """
    parsed = default_url(everywhere=True) if url is None else as_url(url)
    connector = connector_class(parsed.scheme)
    if getattr(connector, "sweep_url", None) is None:
        raise UnsupportedError(
            "this connector cannot tell what dead owners left behind", store=str(parsed)
        )
    swept: list[str] = connector.sweep_url(
        parsed.replace(options={k: v for k, v in parsed.options.items() if k not in NAMES})
    )
    return swept
