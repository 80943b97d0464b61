"""Objects in a Redis or Valkey server: ``redis://``, for the processes of many hosts.

Listing and dropping a run are one command each, and so is its expiry: the owner renews it, and what
a killed owner left is gone when its lease is over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.pieces import cut, flat, new_memory
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.redislayout import (
    EVICT,
    GIVE_UP,
    PART,
    SHOW,
    UPLOAD,
    Head,
    hash_of,
    object_field,
)
from proxyflow.connectors.redislease import LEASE, RedisSession
from proxyflow.connectors.sessionkey import (
    SessionKey,
    SessionKeyMaker,
    SessionKeySeries,
    check_key,
    may_change,
)
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, CorruptObjectError
from proxyflow.storage.kvs.engines.redis_address import LOCAL
from proxyflow.storage.kvs.engines.redis_client import Subscription
from proxyflow.storage.kvs.engines.resp import Command

__all__ = ["RedisConnector"]

_PASSWORD = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_LEASE = 366 * 86400
_PARTS_AT_ONCE = 1024
_SMALL_REPLIES_UNDER_WAY = 64
_KEYS_AT_ONCE = 1000
# Expiry is not announced; who waits for an object looks this often whether it can still come.
_LOOK_EVERY = 1.0


class RedisConnector:
    """Objects in a Redis or Valkey server.

    An object is written without joining its pieces and read straight into the memory it is to
    have. A large one goes in parts and becomes visible with the last command, so there is no limit
    of 512 MB and never half an object.

    Parameters
    ----------
    url
        ``redis://[user:$VARIABLE@]host:port/db``; ``rediss://`` with TLS;
        ``redis+unix:///path?db=0`` over a socket of this host. A password is named by an
        environment variable and never written out: the URL travels with every proxy.
    session
        The session to join; by default a new one, which this connector then owns.
    lease
        Seconds after which the objects of an owner that does not renew them are gone.

    Raises
    ------
    ConfigError
        If the URL or the lease makes no sense, or the URL holds a password.
    StoreUnreachableError
        If there is no server, or it refuses the password.
    StoreClosedError
        If the session to join has ended.
    """

    key_type = SessionKey

    def __init__(self, url: str, session: str | None = None, lease: float = LEASE) -> None:
        _check_password(url)
        if not 0 < lease <= _LONGEST_LEASE:
            raise ConfigError(f"a lease is more than 0 seconds and at most a year, not {lease!r}")
        self._session = RedisSession(url, session, lease)
        self._make_key = SessionKeyMaker(self.session)

    @classmethod
    def from_url(cls, url: StoreURL) -> RedisConnector:
        """Return the connector that ``redis://host:port/db?timeout=10&lease=60#session`` names."""
        known = {"timeout", "lease"}
        url.check_options(frozenset(known | {"db"} if url.scheme in LOCAL else known))
        try:
            lease = float(url.options.get("lease", LEASE))
        except ValueError as error:
            raise ConfigError(f"option lease of store URL {url.shown} is no number") from error
        server = url.replace(options={**url.options, "lease": None}, session=None)
        return cls(str(server), url.session, lease)

    @staticmethod
    def hold_url(url: StoreURL) -> RedisConnector:
        """Keep the session that `url` names alive, beyond its owner if need be.

        Raises
        ------
        StoreClosedError
            If it has ended.
        """
        if not url.session:
            raise ConfigError(f"{url.shown} names no session")
        connector = RedisConnector.from_url(url)
        try:
            connector._session.hold()
        except BaseException:
            connector.close()
            raise
        return connector

    @staticmethod
    def sweep_url(url: StoreURL) -> list[str]:
        """Remove the sessions that have neither owner nor expiry, and return their names."""
        with RedisConnector.from_url(url.replace(session=None)) as connector:
            return connector.sweep()

    def __repr__(self) -> str:
        state = "closed" if self._session.closed else "owner" if self.owner else "joined"
        return f"<RedisConnector {self._session.url} session {self.session} ({state})>"

    # -- what and where it is ------------------------------------------------------------------

    @property
    def session(self) -> str:
        """Name of the session."""
        return self._session.name

    @property
    def owner(self) -> bool:
        """Whether closing this connector ends the session, unless somebody else holds it."""
        return self._session.owner

    @property
    def url(self) -> str:
        """URL that opens the same session; holds no password."""
        url = StoreURL.parse(self._session.url)
        lease = None if self._session.lease == LEASE else f"{self._session.lease:g}"
        return str(url.replace(options={**url.options, "lease": lease}, session=self.session))

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to join this session."""
        session = self._session
        return {"url": session.url, "session": session.name, "lease": session.lease}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RedisConnector:
        """Return a connector for a configuration, joining its session."""
        return cls(**config)

    def sweep(self) -> list[str]:
        """Remove the sessions that have neither owner nor expiry, and return their names."""
        return self._session.sweep()

    def close(self) -> None:
        """End the session if this connector owns it and nobody else holds it."""
        self._session.close()

    def __enter__(self) -> RedisConnector:
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
        return SessionKeySeries.of(self.session)

    def put(self, obj: Buffer) -> SessionKey:
        """Store an object and return its key.

        Raises
        ------
        StoreFullError
            If the server has reached its ``maxmemory``; nothing is left behind.
        StoreClosedError
            If the session has ended.
        """
        return self.put_frames([obj])

    def put_frames(self, frames: Sequence[Buffer]) -> SessionKey:
        """Store the pieces as one object, without joining them, and return its key."""
        return self.put_frames_batch([frames])[0]

    def put_batch(self, objs: Sequence[Buffer]) -> list[SessionKey]:
        """Store several objects, small ones in one round trip; all of them or none."""
        return self.put_frames_batch([[obj] for obj in objs])

    def put_frames_batch(self, objs: Sequence[Sequence[Buffer]]) -> list[SessionKey]:
        """Store several objects, each given in pieces, as `put_batch` does."""
        objects = {self._make_key(): flat(frames) for frames in objs}
        self._write(objects, _heads(objects))
        return list(objects)

    def set(self, key: SessionKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def set_frames(self, key: SessionKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, and tell those who wait for it."""
        self._locate(key)
        objects = {key: flat(frames)}
        heads = _heads(objects)
        replies = self._write(
            objects,
            heads,
            before=[[b"HGET", hash_of(key.session), object_field(key)]],
            after=[[b"PUBLISH", _channel(key), b"set"]],
        )
        replaced = Head.read(replies[0] or b"")
        # Sent once more over another connection, the commands find what they have written before.
        if replaced is not None and replaced.number != heads[key].number:
            self._unlink(replaced.parts(key))

    def _write(
        self,
        objects: dict[SessionKey, list[memoryview]],
        heads: dict[SessionKey, Head],
        before: Sequence[Command] = (),
        after: Sequence[Command] = (),
    ) -> list[Any]:
        """Write objects, with other commands before and after they become visible."""
        if not objects:
            return []
        first = next(iter(objects))
        hash_ = hash_of(first.session)
        try:
            pending = [*before, *self._stored_whole(objects, heads)]
            for key, head in heads.items():
                if not head.whole:
                    pending = self._store_parts(key, head, objects[key], pending)
            # Whether the session is there is asked last: writing would make it anew.
            replies = self._session.exchange(
                [*pending, *after, [b"HEXISTS", hash_, b"owner"]], first
            )
        except BaseException:
            self._give_up(heads)
            raise
        if not replies[-1]:
            parts = [part for key, head in heads.items() for part in head.parts(key)]
            self._session.exchange([[b"UNLINK", hash_, *parts]])
            raise self._session.ended(first)
        return replies

    @staticmethod
    def _stored_whole(
        objects: dict[SessionKey, list[memoryview]], heads: dict[SessionKey, Head]
    ) -> list[Command]:
        """Return the command that stores all the small objects, if there are any."""
        pairs: list[Any] = []
        for key, head in heads.items():
            if head.whole:
                # So few bytes are joined sooner than sent in pieces.
                pairs += [object_field(key), b"".join([head.pack(), *objects[key]])]
        session = next(iter(objects)).session
        return [[b"HSET", hash_of(session), *pairs]] if pairs else []

    def _store_parts(
        self, key: SessionKey, head: Head, pieces: list[memoryview], pending: list[Command]
    ) -> list[Command]:
        """Write the parts of a large object but the last; return what is still to be sent."""
        names = head.parts(key)
        lasts = self._session.milliseconds
        for name, part in zip(names, cut(pieces, PART), strict=True):
            if len(pending) >= _PARTS_AT_ONCE:
                self._session.exchange(pending, key)
                pending = []
            pending.append([b"SET", name, part, b"PX", max(UPLOAD, lasts)])
        keys = [hash_of(key.session), *names]
        shown: Command = [b"EVAL", SHOW, len(keys), *keys, object_field(key), head.pack(), lasts]
        return [*pending, shown]

    def _give_up(self, heads: dict[SessionKey, Head]) -> None:
        """Remove what a write that failed has left, if the server can be reached."""
        for key, head in heads.items():
            try:
                self._unlink(head.parts(key))
                hash_, field = hash_of(key.session), object_field(key)
                self._session.exchange([[b"EVAL", GIVE_UP, 1, hash_, field, head.pack()]], key)
            except ConnectionError:
                # What is left is seen by nobody, and expires.
                return

    def _unlink(self, parts: list[bytes]) -> None:
        for at in range(0, len(parts), _KEYS_AT_ONCE):
            self._session.exchange([[b"UNLINK", *parts[at : at + _KEYS_AT_ONCE]]])

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_fresh(key)

    def get_fresh(self, key: SessionKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_batch([key])[0]

    def get_batch(self, keys: Sequence[SessionKey]) -> list[memoryview | None]:
        """Return several objects, small ones in one round trip; None for each missing one."""
        for key in keys:
            self._locate(key)
        commands: list[Command] = [
            [b"HGET", hash_of(key.session), object_field(key)] for key in keys
        ]
        with translated(self._session.url, keys[0] if keys else None):
            found = self._session.client.fetch(commands, under_way=_SMALL_REPLIES_UNDER_WAY)
        return [self._object(key, data) for key, data in zip(keys, found, strict=True)]

    def _object(self, key: SessionKey, data: Any) -> memoryview | None:
        if data is None:
            return None
        head = Head.read(data)
        if head is None:
            raise self._damaged(key)
        content = Head.content(data)
        if content.nbytes != head.nbytes:
            if content.nbytes:
                raise self._damaged(key)
            return self._read_parts(key, head)
        return content

    def _read_parts(self, key: SessionKey, head: Head) -> memoryview | None:
        whole = new_memory(head.nbytes)
        targets = [whole[at : at + PART] for at in range(0, head.nbytes, PART)]
        commands: list[Command] = [[b"GET", name] for name in head.parts(key)]
        with translated(self._session.url, key):
            replies = self._session.client.fetch(commands, targets)
        if None in replies and not self._is(key, head):
            # Removed or replaced in the meantime.
            return self.get_fresh(key)
        if any(reply != target.nbytes for reply, target in zip(replies, targets, strict=True)):
            raise self._damaged(key)
        return whole

    def _is(self, key: SessionKey, head: Head) -> bool:
        """Return whether an object is still the one that has this head."""
        asked: Command = [b"HGET", hash_of(key.session), object_field(key)]
        return Head.read(self._session.exchange([asked], key)[0] or b"") == head

    def _damaged(self, key: SessionKey) -> CorruptObjectError:
        return CorruptObjectError(
            "something else has written to this object's fields, or removed its parts",
            store=self._session.url,
            key=key,
            remedy="the server must not evict keys: set maxmemory-policy to noeviction",
        )

    def exists(self, key: SessionKey) -> bool:
        """Return whether an object is stored under the key."""
        self._locate(key)
        asked: Command = [b"HEXISTS", hash_of(key.session), object_field(key)]
        return bool(self._session.exchange([asked], key)[0])

    def wait(self, key: SessionKey, timeout: float | None = None) -> bool:
        """Return True once the object exists, False when `timeout` seconds are over.

        Raises
        ------
        StoreClosedError
            If the session ends while waiting: the object cannot come any more.
        """
        self._locate(key)
        deadline = None if timeout is None else time.monotonic() + timeout
        with translated(self._session.url, key):
            subscription = Subscription(self._session.client, _channel(key))
        try:
            while not self.exists(key):
                self._session.check(key)
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return False
                with translated(self._session.url, key):
                    subscription.wait(min(_LOOK_EVERY, remaining or _LOOK_EVERY))
        finally:
            subscription.close()
        return True

    # -- removing ------------------------------------------------------------------------------

    def evict(self, key: SessionKey) -> None:
        """Remove the object; removing a missing one is no error."""
        self._locate(key)
        self._session.exchange([[b"EVAL", EVICT, 1, hash_of(key.session), object_field(key)]], key)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        hash_ = hash_of(self.session)
        fields = [f for f in self._session.exchange([[b"HKEYS", hash_]])[0] if f[:2] == b"o:"]
        for at in range(0, len(fields), _KEYS_AT_ONCE):
            some = fields[at : at + _KEYS_AT_ONCE]
            found = self._session.exchange([[b"HMGET", hash_, *some]])[0]
            for field, data in zip(some, found, strict=True):
                head = Head.read(data or b"")
                if head is not None:
                    key = SessionKey(self.session, field[2:].decode())
                    yield StoredObject(key, head.nbytes, head.modified)

    def _locate(self, key: SessionKey) -> None:
        self._session.check_open(key)
        check_key(key, self._session.url)


def _heads(objects: dict[SessionKey, list[memoryview]]) -> dict[SessionKey, Head]:
    """Return the heads of objects that are about to be written."""
    now = time.time()
    return {
        key: Head.new(sum([piece.nbytes for piece in pieces]), now)
        for key, pieces in objects.items()
    }


def _channel(key: SessionKey) -> bytes:
    return hash_of(key.session) + b":" + key.name.encode()


def _check_password(url: str) -> None:
    try:
        password = urlsplit(url).password
    except ValueError:
        # The engine says what is wrong with it.
        return
    if password and not _PASSWORD.fullmatch(password):
        raise ConfigError(
            "the URL of a Redis store holds a password, which would travel with every proxy",
            remedy="put it into an environment variable and name that: "
            "redis://:$REDIS_PASSWORD@host:6379",
        )
