"""Objects in a tag/blob store: ``ddfs+file://``, ``ddfs+s3://``, ``disco://``.

An object is a tag, ``proxyflow:SESSION:NAME``, over its blobs; its attributes say what it is. It is
linked from a list, ``proxyflow:SESSION-LIST``, and that from the session's tag,
``proxyflow:SESSION``: so `list`, `walk` and `blobs` of the storage system see the whole run. Each
process appends to lists of its own, so that no list gets long.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xxhash

from proxyflow.connectors.lease import LEASE, Lease
from proxyflow.connectors.pieces import cut, flat, new_memory
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.session import SESSION_NAME, new_name, no_session
from proxyflow.connectors.sessionkey import (
    SessionKey,
    SessionKeyMaker,
    SessionKeySeries,
    check_key,
    may_change,
)
from proxyflow.connectors.tagbloberrors import translated
from proxyflow.connectors.tagbloblists import SessionLists
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, StoreClosedError
from proxyflow.forking import renew_in_child
from proxyflow.periodic import poll
from proxyflow.storage.tagblob import DDFS, Blob, TagNotFound, Unauthorized
from proxyflow.storage.tagblob.embedded import EmbeddedEngine

__all__ = ["TagBlobConnector", "session_tag"]

PREFIX = "proxyflow:"
_OF_SESSION = re.compile(rf"{PREFIX}({SESSION_NAME.pattern})(?:[:-].*)?")
# As in the format of the storage system: blobs of tens of megabytes.
_BLOB = 64 << 20
_PARALLEL = 4
_TYPE = "application/x-proxyflow"

# What a URL may say besides: a server has its own volumes, only object storage an endpoint.
_VOLUMES = frozenset({"volumes", "replicas"})
_OPTIONS = {"disco": frozenset({"replicas"}), "ddfs+s3": _VOLUMES | {"endpoint"}}


class TagBlobConnector:
    """Objects in a tag/blob store behind a server or in object storage.

    Large objects are cut into blobs that are moved in parallel. With `replicas`, reading survives
    the loss of all replicas of a blob but one; a damaged one is skipped, reported by a warning and
    repaired.

    Parameters
    ----------
    url
        ``ddfs+s3://bucket/prefix`` or ``disco://host:port``. Credentials come from the environment
        (``AWS_...``, ``DDFS_READ_TOKEN``, ``DDFS_WRITE_TOKEN``) and never travel.
    session
        The session to join; by default a new one, which this connector then owns.
    volumes
        How many volumes the store should have; by default one, or those there are.
    replicas
        How many of them each blob is written to.
    endpoint
        Where the object storage is, if not where its URL says.

    Attributes
    ----------
    swept : list of str
        The sessions of dead owners that were removed when this one began.

    Raises
    ------
    ConfigError
        If the URL makes no sense.
    StoreUnreachableError
        If the store does not answer, or refuses the token.
    StoreClosedError
        If the session to join has ended.
    """

    key_type = SessionKey

    def __init__(
        self,
        url: str,
        session: str | None = None,
        *,
        volumes: int | None = None,
        replicas: int | None = None,
        endpoint: str | None = None,
    ) -> None:
        if session is not None and not SESSION_NAME.fullmatch(session):
            raise no_session(session, url)
        self._url = url
        self._options = {"volumes": volumes, "replicas": replicas, "endpoint": endpoint}
        with translated(url):
            self._ddfs = _open(url, volumes, replicas, endpoint)
        self._closed = False
        self.swept: list[str] = []
        self._name = self._begin() if session is None else self._join(session)
        self._make_key = SessionKeyMaker(self._name)
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """Begin lists of its own: each is written by one process."""
        self._lists = SessionLists(self._ddfs, session_tag(self._name))

    @classmethod
    def from_url(cls, url: StoreURL) -> Any:
        """Return the connector that ``disco://host:port?replicas=2#session`` names."""
        url.check_options(_OPTIONS.get(url.scheme, _VOLUMES))
        counts = {name: _count(url, name) for name in ("volumes", "replicas")}
        place = str(url.replace(options={}, session=None))
        return cls(place, url.session, endpoint=url.options.get("endpoint"), **counts)

    @classmethod
    def sweep_url(cls, url: StoreURL) -> list[str]:
        """Remove what dead owners left in the store `url` names."""
        with cls.from_url(url.replace(session=None)) as connector:
            return sorted(connector.swept)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "owner" if self.owner else "joined"
        return f"<{type(self).__name__} {self._url} session {self._name} ({state})>"

    # -- the session ---------------------------------------------------------------------------

    def _begin(self) -> str:
        name = new_name(10)
        self._lease = Lease(self._renew)
        with translated(self._url):
            self.swept = self._sweep()
            self._ddfs.admit_readers(session_tag(name))
            self._ddfs.put(session_tag(name), [], attributes=self._alive())
        self._lease.start()
        return name

    def _join(self, session: str) -> str:
        self._lease = Lease(self._renew)
        with translated(self._url):
            if not self._ddfs.exists(session_tag(session)):
                raise _ended(session, self._url)
        return session

    @staticmethod
    def _alive() -> dict[str, str]:
        return {"renewed": f"{time.time():.0f}"}

    def _renew(self) -> None:
        with translated(self._url):
            (renewed,) = self._alive().values()
            self._ddfs.setattr(session_tag(self._name), "renewed", renewed)

    def _is_dead(self, session: str) -> bool:
        try:
            renewed = float(self._ddfs.getattr(session_tag(session), "renewed"))
        except TagNotFound:
            # Its tag goes last: what is left came from a process that did not know.
            return True
        except (LookupError, Unauthorized):
            return False
        return time.time() - renewed > LEASE

    def _end(self) -> None:
        if self.owner:
            self._lease.stop()
            self._drop(self._name)

    def _drop(self, session: str) -> None:
        """Remove a session with all in it."""
        tag = session_tag(session)
        # Objects, then lists, and the session's own tag last.
        for below in reversed(self._ddfs.list(tag)):
            self._remove(below)
        # What a killed process had stored and not tagged yet, or not tagged any more.
        self._ddfs.discard_blobs(tag)

    def _sweep(self) -> list[str]:
        dead = sorted(session for session in self._sessions() if self._is_dead(session))
        return [session for session in dead if self._may_drop(session)]

    def _may_drop(self, session: str) -> bool:
        """Remove a session, unless its tags want other tokens: those who have them will."""
        try:
            self._drop(session)
        except Unauthorized:
            return False
        return True

    def _sessions(self) -> set[str]:
        """Return the sessions that there is a tag of."""
        found = map(_OF_SESSION.fullmatch, self._ddfs.list(PREFIX))
        return {match[1] for match in found if match}

    def sweep(self) -> list[str]:
        """Remove the sessions whose owner is dead, and return their names."""
        self._check_open()
        with translated(self._url):
            return self._sweep()

    @property
    def session(self) -> str:
        """Name of the session."""
        return self._name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session."""
        return self._lease.held

    @property
    def url(self) -> str:
        """URL that opens the same session; holds no secret."""
        options = {name: str(value) for name, value in self._options.items() if value is not None}
        return str(StoreURL.parse(self._url).replace(options=options, session=self._name))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        return {"url": self._url, "session": self._name, **self._options}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    def close(self) -> None:
        """End the session if this connector owns it, else just let go of it."""
        if self._closed:
            return
        try:
            with translated(self._url):
                self._end()
        finally:
            self._closed = True
            self._ddfs.close()

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
            If no volume has room; nothing is left behind.
        """
        return self.put_frames([obj])

    def put_batch(self, objs: Sequence[Buffer]) -> list[SessionKey]:
        """Store several objects, some at a time; when one fails, none of them stays."""
        return self.put_frames_batch([[obj] for obj in objs])

    def put_frames_batch(self, objs: Sequence[Sequence[Buffer]]) -> list[SessionKey]:
        """Store several objects, each given in pieces, as `put_batch` does."""
        keys = [self._make_key() for _ in objs]
        try:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(lambda key, obj: self._write(key, obj, is_new=True), keys, objs))
        except BaseException:
            for key in keys:
                self.evict(key)
            raise
        return keys

    def put_frames(self, frames: Sequence[Buffer]) -> SessionKey:
        """Store the pieces as one object, without joining them, and return its key."""
        key = self._make_key()
        self._write(key, frames, is_new=True)
        return key

    def set(self, key: SessionKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def set_frames(self, key: SessionKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, without joining them."""
        self._write(key, frames, is_new=False)

    def _write(self, key: SessionKey, frames: Sequence[Buffer], *, is_new: bool) -> None:
        self._locate(key)
        pieces = flat(frames)
        tag = _object_tag(key)
        with translated(self._url, key):
            if not self._ddfs.exists(session_tag(key.session)):
                raise _ended(key.session, self._url)
            replaced = [] if is_new else self._urls(tag)
            # Linked first: what a killed process leaves is then found with its session.
            self._lists_of(key.session).link(tag)
            blobs = self._store(tag, list(cut(pieces, _BLOB)) or [[]])
            try:
                if not replaced:
                    # Before it is filled: whoever waits for the object may read it at once.
                    self._ddfs.admit_readers(tag)
                self._ddfs.put(tag, blobs, attributes=_attributes(pieces))
            except BaseException:
                self._discard(blobs)
                raise
            self._discard(replaced)

    def _discard(self, blobs: list[list[str]]) -> None:
        for replicas in blobs:
            self._ddfs.discard_blob(replicas)

    def _lists_of(self, session: str) -> SessionLists:
        if session == self._name:
            return self._lists
        return SessionLists(self._ddfs, session_tag(session))

    def _store(self, name: str, parts: list[list[memoryview]]) -> list[list[str]]:
        """Store parts as blobs of that name; when one fails, none of them stays."""

        def store(part: list[memoryview]) -> list[str]:
            return list(self._ddfs.store_blob(name, part or [b""]))

        if len(parts) == 1:
            return [store(parts[0])]
        pool = ThreadPoolExecutor(_PARALLEL)
        stored = [pool.submit(store, part) for part in parts]
        try:
            return [future.result() for future in stored]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            done = [one for one in stored if not one.cancelled() and one.exception() is None]
            self._discard([one.result() for one in done])
            raise
        finally:
            pool.shutdown()

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_fresh(key)

    def get_fresh(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        blobs = self._open(key)
        if blobs is None:
            return None
        whole = new_memory(sum(len(blob) for blob in blobs))
        targets = []
        for blob, at in zip(blobs, itertools.accumulate(map(len, blobs), initial=0), strict=False):
            targets.append(whole[at : at + len(blob)])
        with translated(self._url, key):
            if len(blobs) == 1:
                _fill(blobs[0], targets[0])
            else:
                with ThreadPoolExecutor(_PARALLEL) as pool:
                    list(pool.map(_fill, blobs, targets))
        return whole

    def _open(self, key: SessionKey) -> list[Blob] | None:
        """Return the blobs of an object, opened; None if it is missing."""
        self._locate(key)
        with translated(self._url, key):
            while blobs := self._urls(_object_tag(key)):
                try:
                    return [self._ddfs.open_blob(replicas) for replicas in blobs]
                except LookupError:
                    # Evicted or replaced in the meantime; otherwise it is lost.
                    if self._urls(_object_tag(key)) == blobs:
                        raise
        return None

    def _urls(self, tag: str) -> list[list[str]]:
        try:
            return [list(replicas) for replicas in self._ddfs.urls(tag)]
        except TagNotFound:
            return []

    def get_batch(self, keys: Sequence[SessionKey]) -> list[memoryview | None]:
        """Return several objects, some at a time, None for each missing one."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(self.get, keys))

    def exists(self, key: SessionKey) -> bool:
        """Return whether an object is stored under the key."""
        self._locate(key)
        with translated(self._url, key):
            return bool(self._urls(_object_tag(key)))

    def wait(self, key: SessionKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        return poll(lambda: self._has_come(key), timeout)

    def _has_come(self, key: SessionKey) -> bool:
        if self.exists(key):
            return True
        with translated(self._url, key):
            if not self._ddfs.exists(session_tag(key.session)):
                raise _ended(key.session, self._url)
        return False

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: SessionKey) -> None:
        """Remove the object; removing a missing one is no error."""
        self._locate(key)
        tag = _object_tag(key)
        with translated(self._url, key):
            self._remove(tag)
        self._lists.unlink(tag)

    def _remove(self, tag: str) -> None:
        """Remove a tag and the blobs it names."""
        blobs = self._urls(tag)
        self._ddfs.discard_tag(tag)
        self._discard(blobs)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        self._check_open()
        with translated(self._url):
            for key in self._keys():
                try:
                    found = self._ddfs.get(_object_tag(key))
                except TagNotFound:
                    continue
                attributes = found["user-data"]
                if found["urls"]:
                    yield StoredObject(key, int(attributes["size"]), float(attributes["stored"]))

    def _keys(self) -> Iterator[SessionKey]:
        # By their names: lists may hold links of what has been evicted.
        for tag in self._ddfs.list(f"{session_tag(self._name)}:"):
            yield SessionKey(self._name, tag.rpartition(":")[2])

    def _locate(self, key: SessionKey) -> None:
        self._check_open()
        check_key(key, self._url)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store has been closed", store=self._url)


def _open(url: str, volumes: int | None, replicas: int | None, endpoint: str | None) -> DDFS:
    storage_options = {"client_kwargs": {"endpoint_url": endpoint}} if endpoint else None
    ddfs = DDFS(
        url.removeprefix("ddfs+"),
        volumes=volumes,
        replicas=replicas,
        storage_options=storage_options,
    )
    if isinstance(ddfs.engine, EmbeddedEngine):
        _check_replicas(url, ddfs.engine)
    return ddfs


def _check_replicas(url: str, engine: EmbeddedEngine) -> None:
    """Refuse at once what no object could be stored with."""
    if not 1 <= engine.replicas <= len(engine.volumes):
        raise ConfigError(
            f"replicas={engine.replicas} cannot be had of {url}, whose volumes are "
            f"{', '.join(sorted(engine.volumes))}",
            remedy="give it more (?volumes=3), or set replicas or DDFS_BLOB_REPLICAS to fewer",
        )


def session_tag(session: str) -> str:
    """Return the tag that a session hangs under."""
    return PREFIX + session


def _object_tag(key: SessionKey) -> str:
    return f"{PREFIX}{key.session}:{key.name}"


def _attributes(pieces: list[memoryview]) -> dict[str, str]:
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return {
        "type": _TYPE,
        "size": str(sum(piece.nbytes for piece in pieces)),
        "digest": f"xxh3-128:{digest.hexdigest()}",
        "stored": f"{time.time():.6f}",
    }


def _fill(blob: Blob, target: memoryview) -> None:
    with blob:
        at = 0
        while at < target.nbytes:
            count = blob.readinto(target[at:])
            if not count:
                raise EOFError(f"{blob.url} ends after {at} of {target.nbytes} bytes")
            at += count


def _ended(session: str, store: str) -> StoreClosedError:
    return StoreClosedError(
        f"session {session} has ended",
        store=store,
        remedy="keep the store open while proxies are in use",
    )


def _count(url: StoreURL, name: str) -> int | None:
    text = url.options.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"option {name} of store URL {url} is no number from 1")
    return int(text)
