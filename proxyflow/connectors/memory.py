"""Objects in the memory of one process: for threads, and for trying things out.

The counterpart of ProxyStore's ``LocalConnector``
(https://docs.proxystore.dev/latest/api/connectors/local/).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, InvalidKeyError, StoreClosedError
from proxyflow.forking import renew_in_child

__all__ = ["MemoryConnector", "MemoryKey"]

_ELSEWHERE = "between processes use a store all of them reach, like 'file:///dev/shm/run1'"


class MemoryKey(NamedTuple):
    """Key of an object in a :class:`MemoryConnector`."""

    name: str


class _Session:
    """The objects of one session, shared by every connector of the process that joins it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = os.getpid()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.ended = False
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        self.changed = threading.Condition()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy, which its parent does not see."""
        return self.pid != os.getpid()

    def end(self) -> None:
        with self.changed:
            self.ended = True
            self.objects.clear()
            self.changed.notify_all()

    def has_ended(self) -> StoreClosedError:
        return StoreClosedError(
            f"session {self.name} has ended, or is in the memory of another process",
            store="memory://",
            remedy=_ELSEWHERE,
        )


_sessions: dict[str, _Session] = {}


class MemoryConnector:
    """Objects in the memory of this process.

    A forked child can read what was stored before the fork, and nothing else.

    Parameters
    ----------
    session
        The session to join; by default a new one, which this connector then owns.

    Raises
    ------
    StoreClosedError
        If the session to join is not one of this process.

    Examples
    --------
    >>> with MemoryConnector() as connector:
    ...     key = connector.put(b"some bytes")
    ...     connector.get(key)
    b'some bytes'
    """

    key_type = MemoryKey

    def __init__(self, session: str | None = None) -> None:
        self._owner = session is None
        self._name = session or f"{os.getpid()}-{new_name(10)}"
        if self._owner:
            _sessions[self._name] = _Session(self._name)
        joined = _sessions.get(self._name)
        if joined is None:
            raise StoreClosedError(
                f"session {self._name} has ended, or is in the memory of another process",
                store="memory://",
                remedy=_ELSEWHERE,
            )
        self._joined: _Session | None = joined

    @classmethod
    def from_url(cls, url: StoreURL) -> MemoryConnector:
        """Return the connector that ``memory://#session`` names."""
        url.check_options(frozenset())
        if url.authority or url.path:
            raise ConfigError(f"{url} has a path", remedy="write just memory://")
        return cls(url.session)

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Return an empty list: memory dies with its owner."""
        return []

    def __repr__(self) -> str:
        state = "closed" if self._joined is None else f"{len(self._joined.objects)} objects"
        return f"<MemoryConnector session {self.session} ({state})>"

    @property
    def session(self) -> str:
        """Name of the session."""
        return self._name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._owner and self._joined is not None and not self._joined.inherited

    @property
    def url(self) -> str:
        """URL that joins the same session, in the same process."""
        return str(StoreURL("memory", session=self._name))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {"session": self._name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MemoryConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    def new_key(self, obj: Buffer | None = None) -> MemoryKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return MemoryKey(new_name(14))

    def put(self, obj: Buffer) -> MemoryKey:
        """Store a copy of an object and return its key."""
        return self.put_frames([obj])

    def put_batch(self, objs: Sequence[Buffer]) -> list[MemoryKey]:
        """Store several objects and return their keys in the same order."""
        return [self.put(obj) for obj in objs]

    def set(self, key: MemoryKey, obj: Buffer) -> None:
        """Store a copy of an object under a key made by `new_key`."""
        self.set_frames(key, [obj])

    def put_frames(self, frames: Sequence[Buffer]) -> MemoryKey:
        """Store the pieces as one object and return its key."""
        key = self.new_key()
        self.set_frames(key, frames)
        return key

    def set_frames(self, key: MemoryKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key.

        Raises
        ------
        StoreClosedError
            If the session has ended, or its owner is the process that forked this one.
        """
        session, name = self._locate(key)
        data = b"".join(frames)
        with session.changed:
            if session.ended or session.inherited:
                raise session.has_ended()
            session.objects[name] = (data, time.time())
            session.changed.notify_all()

    def get(self, key: MemoryKey) -> bytes | None:
        """Return the object, or None if nothing is stored under the key.

        Raises
        ------
        StoreClosedError
            In a forked child, if it was not stored before the fork.
        """
        found = self._find(key)
        return None if found is None else found[0]

    def get_batch(self, keys: Sequence[MemoryKey]) -> list[bytes | None]:
        """Return several objects in the order of their keys, None for each missing one."""
        return [self.get(key) for key in keys]

    def get_view(self, key: MemoryKey) -> memoryview | None:
        """Return the object as private, writable memory: a copy, as memory cannot be mapped."""
        data = self.get(key)
        return None if data is None else memoryview(bytearray(data))

    def exists(self, key: MemoryKey) -> bool:
        """Return whether an object is stored under the key."""
        return self._find(key) is not None

    def wait(self, key: MemoryKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting, or can bring nothing new: in a forked child.
        """
        session, name = self._locate(key)
        with session.changed:
            session.changed.wait_for(
                lambda: (
                    name in session.objects
                    or session.ended
                    or session.inherited
                    or self._joined is None
                ),
                timeout,
            )
            self._locate(key)
            found = name in session.objects
            if not found and (session.ended or session.inherited):
                raise session.has_ended()
        return found

    def evict(self, key: MemoryKey) -> None:
        """Remove the object; removing a missing one is no error."""
        session, name = self._locate(key)
        session.objects.pop(name, None)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        for name, (data, modified) in list(self._session().objects.items()):
            yield StoredObject(MemoryKey(name), len(data), modified)

    def close(self) -> None:
        """End the session if this connector owns it, else just let go of it."""
        owner = self.owner
        session, self._joined = self._joined, None
        if session is None:
            return
        if owner:
            _sessions.pop(self._name, None)
            session.end()
        else:
            with session.changed:
                session.changed.notify_all()

    def __enter__(self) -> MemoryConnector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _find(self, key: MemoryKey) -> tuple[bytes, float] | None:
        session, name = self._locate(key)
        found = session.objects.get(name)
        if found is None and session.inherited:
            # It may well be there, where this process cannot look.
            raise session.has_ended()
        return found

    def _session(self) -> _Session:
        joined = self._joined
        if joined is None:
            raise StoreClosedError("the store has been closed", store="memory://")
        return joined

    def _locate(self, key: MemoryKey) -> tuple[_Session, str]:
        if not (isinstance(key, tuple) and len(key) == 1 and isinstance(key[0], str)):
            raise InvalidKeyError("not a key of this store", store="memory://", key=key)
        return self._session(), key[0]
