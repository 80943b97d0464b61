"""Objects in a transactional KVS: what ``lmdb://`` and ``flux://`` have in common.

A session is a namespace. An object is the value ``o.NAME``: its head, and its bytes if they are
few; those of others are the values ``p.NAME.NUMBER``. All of an object is one commit.
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.pieces import cut, flat, new_memory
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.session import SESSION_NAME, no_session
from proxyflow.connectors.sessionkey import (
    SessionKey,
    SessionKeyMaker,
    SessionKeySeries,
    check_key,
    may_change,
)
from proxyflow.errors import CorruptObjectError, StoreClosedError
from proxyflow.storage import kvs
from proxyflow.storage.kvs.keys import split

__all__ = ["KVSConnector", "namespace_of", "sessions_in"]

_HEAD = struct.Struct("<dQ")
# What is read with its head, by one look; more is read straight into place.
_INLINE = 256 << 10
_PREFIX = "proxyflow-"


def namespace_of(session: str) -> str:
    """Return the namespace that a session is."""
    return _PREFIX + session


def sessions_in(handle: kvs.Handle) -> list[str]:
    """Return the sessions that have a namespace."""
    found = kvs.namespace_list(handle)
    return [name.removeprefix(_PREFIX) for name in found if name.startswith(_PREFIX)]


class KVSConnector(ABC):
    """Objects in a transactional KVS.

    Parameters
    ----------
    url
        The KVS, as `proxyflow.storage.kvs.open` takes it.
    session
        Name of the session.
    """

    key_type = SessionKey

    part: int
    """How many bytes to a value at most."""

    def __init__(self, url: str, session: str) -> None:
        if not SESSION_NAME.fullmatch(session):
            raise no_session(session, url)
        self._store = url
        self._name = session
        self._closed = False
        self._make_key = SessionKeyMaker(session)
        with translated(url):
            self._handle = kvs.open(url)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owner else "joined"
        return f"<{type(self).__name__} {self._store} session {self._name} ({state})>"

    @property
    def session(self) -> str:
        """Name of the session."""
        return self._name

    @property
    @abstractmethod
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""

    @abstractmethod
    def _end(self) -> None:
        """Let go of the session; end it if nobody else holds it."""

    def close(self) -> None:
        """End the session if this connector owns it, else just let go of it."""
        if self._closed:
            return
        try:
            with translated(self._store):
                self._end()
        finally:
            self._closed = True
            self._handle.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- writing -------------------------------------------------------------------------------

    def new_key(self, obj: Buffer | None = None) -> SessionKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return self._make_key.ahead()

    def may_change(self, key: SessionKey) -> bool:
        """Return whether the object of a key may be replaced: it was made before the object."""
        return may_change(key)

    def new_series(self) -> SessionKeySeries:
        """Return keys by number under which nothing is stored yet."""
        return SessionKeySeries.of(self._name)

    def put(self, obj: Buffer) -> SessionKey:
        """Store an object and return its key.

        Raises
        ------
        StoreFullError
            If there is no room; nothing is left behind.
        StoreClosedError
            If the session has ended.
        """
        return self.put_frames([obj])

    def put_frames(self, frames: Sequence[Buffer]) -> SessionKey:
        """Store the pieces as one object and return its key."""
        key = self._make_key()
        self._write({key: flat(frames)})
        return key

    def put_batch(self, objs: Sequence[Buffer]) -> list[SessionKey]:
        """Store several objects in one commit: all of them or none."""
        return self.put_frames_batch([[obj] for obj in objs])

    def put_frames_batch(self, objs: Sequence[Sequence[Buffer]]) -> list[SessionKey]:
        """Store several objects, each given in pieces, as `put_batch` does."""
        objects = {self._make_key(): flat(frames) for frames in objs}
        self._write(objects)
        return list(objects)

    def set(self, key: SessionKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def set_frames(self, key: SessionKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key."""
        self._locate(key)
        self._write({key: flat(frames)}, replaces=True)

    def _write(
        self, objects: dict[SessionKey, list[memoryview]], *, replaces: bool = False
    ) -> None:
        self._check_open()
        for session in {key.session for key in objects}:
            mine = {key: pieces for key, pieces in objects.items() if key.session == session}
            first = next(iter(mine))
            with (
                translated(self._store, first),
                kvs.KVSTxn(self._handle, namespace=namespace_of(session)) as transaction,
            ):
                for key, pieces in mine.items():
                    if replaces:
                        transaction.unlink(_parts(key))
                    self._stage(transaction, key, pieces)

    def _stage(self, transaction: kvs.KVSTxn, key: SessionKey, pieces: list[memoryview]) -> None:
        nbytes = sum(piece.nbytes for piece in pieces)
        head = _HEAD.pack(time.time(), nbytes)
        if nbytes <= _INLINE:
            transaction.put_parts(_object(key), [head, *pieces])
            return
        for number, part in enumerate(cut(pieces, self.part)):
            transaction.put_parts(f"{_parts(key)}.{number}", part)
        transaction.put_parts(_object(key), [head])

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_fresh(key)

    def get_fresh(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_batch([key])[0]

    def get_batch(self, keys: Sequence[SessionKey]) -> list[memoryview | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        for key in keys:
            self._locate(key)
        found: dict[SessionKey, memoryview | None] = {}
        for session in {key.session for key in keys}:
            mine = [key for key in keys if key.session == session]
            for key, value in zip(mine, self._values(mine), strict=True):
                found[key] = self._whole(key, value)
        return [found[key] for key in keys]

    def _values(self, keys: list[SessionKey]) -> list[bytes | None]:
        """Return what is stored for objects of one session, of one moment."""
        names = [split(_object(key)) for key in keys]
        with translated(self._store, keys[0]):
            try:
                return self._handle.backend.read(namespace_of(keys[0].session), names)
            except kvs.NamespaceError:
                # The session has ended, and its objects with it.
                return [None] * len(keys)

    def _whole(self, key: SessionKey, value: bytes | None) -> memoryview | None:
        """Return an object for the value that has its head."""
        while value is not None:
            if len(value) < _HEAD.size:
                raise self._damaged(key)
            _, nbytes = _HEAD.unpack_from(value)
            if len(value) == _HEAD.size + nbytes:
                return memoryview(bytearray(memoryview(value)[_HEAD.size :]))
            whole = self._read_parts(key, nbytes)
            # What was read in several looks counts only if it is still what it was.
            value, before = self._values([key])[0], value
            if value == before:
                if whole is None:
                    raise self._damaged(key)
                return whole
        return None

    def _read_parts(self, key: SessionKey, nbytes: int) -> memoryview | None:
        whole = new_memory(nbytes)
        where = namespace_of(key.session)
        with translated(self._store, key):
            try:
                for number, at in enumerate(range(0, nbytes, self.part)):
                    names = split(f"{_parts(key)}.{number}")
                    target = whole[at : at + self.part]
                    if self._handle.backend.readinto(where, names, target, 0) != target.nbytes:
                        return None
            except (kvs.KeyNotFoundError, kvs.NamespaceError):
                return None
        return whole

    def _damaged(self, key: SessionKey) -> CorruptObjectError:
        return CorruptObjectError(
            "something else has written to this object's values", store=self._store, key=key
        )

    def exists(self, key: SessionKey) -> bool:
        """Return whether an object is stored under the key."""
        self._locate(key)
        with translated(self._store, key):
            try:
                state = self._handle.backend.state(namespace_of(key.session), split(_object(key)))
            except kvs.NamespaceError:
                # The session has ended, and its objects with it.
                return False
            return state is not None

    def wait(self, key: SessionKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        self._locate(key)
        where, names = namespace_of(key.session), split(_object(key))
        deadline = None if timeout is None else time.monotonic() + timeout
        with translated(self._store, key), self._handle.backend.watch(where, names) as watcher:
            while self._handle.backend.state(where, names) is None:
                self._check_open()
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                watcher.wait(remaining)
        return True

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: SessionKey) -> None:
        """Remove the object; removing a missing one is no error."""
        self._locate(key)
        with translated(self._store, key):
            transaction = kvs.KVSTxn(self._handle, namespace=namespace_of(key.session))
            transaction.unlink(_object(key))
            transaction.unlink(_parts(key))
            try:
                transaction.commit()
            except kvs.NamespaceError:
                # The session has ended, and the object with it.
                return

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        self._check_open()
        where = namespace_of(self._name)
        with translated(self._store):
            try:
                names = list(kvs.get_dir(self._handle, "o", where))
            except kvs.KeyNotFoundError:
                return
        for name in names:
            head = bytearray(_HEAD.size)
            with translated(self._store):
                try:
                    kvs.readinto(self._handle, f"o.{name}", head, namespace=where)
                except kvs.KeyNotFoundError:
                    continue
            modified, nbytes = _HEAD.unpack(head)
            yield StoredObject(SessionKey(self._name, name), nbytes, modified)

    # -- keys ----------------------------------------------------------------------------------

    def _locate(self, key: SessionKey) -> None:
        self._check_open()
        check_key(key, self._store)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store has been closed", store=self._store)

    def _check_session(self) -> None:
        if self._name not in sessions_in(self._handle):
            raise StoreClosedError(
                f"session {self._name} has ended",
                store=self._store,
                remedy="keep the store open while proxies are in use",
            )


def _object(key: SessionKey) -> str:
    return f"o.{key.name}"


def _parts(key: SessionKey) -> str:
    return f"p.{key.name}"
