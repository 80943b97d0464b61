"""Objects in a Redis or Valkey server: ``redis://``, for the processes of many hosts.

Listing and dropping a run are one command each, and so is its expiry: the owner renews it, and what
a killed owner left is gone when its lease is over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.protocol import Buffer, StoredObject
from proxyflow.connectors.redislayout import (
    EVICT,
    HEAD,
    PART,
    Head,
    RedisKey,
    check_key,
    cut,
    flat,
    hash_of,
    new_memory,
    object_field,
)
from proxyflow.connectors.redislease import LEASE, RedisSession
from proxyflow.connectors.session import new_name
from proxyflow.connectors.url import StoreURL
from proxyflow.errors import ConfigError, CorruptObjectError
from proxyflow.storage.kvs.engines.redis_client import Subscription
from proxyflow.storage.kvs.engines.resp import Command

__all__ = ["RedisConnector", "RedisKey"]

_PASSWORD = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_PARTS_AT_ONCE = 64
_SMALL_REPLIES_UNDER_WAY = 64
_KEYS_AT_ONCE = 1000
# Expiry is not announced; who waits for an object looks this often whether it can still come.
_LOOK_EVERY = 1.0


class RedisConnector:
    """Objects in a Redis or Valkey server.

    An object is written without joining its pieces and read straight into the memory it is to
    have. A large one goes in parts and becomes visible with the last write, so there is no limit of
    512 MB and never half an object.

    Parameters
    ----------
    url
        ``redis://[user:$VARIABLE@]host:port/db``; ``rediss://`` with TLS. A password is named by
        an environment variable and never written out: the URL travels with every proxy.
    session
        The session to join; by default a new one, which this connector then owns.
    lease
        Seconds after which the objects of an owner that does not renew them are gone.

    Raises
    ------
    ConfigError
        If the URL makes no sense, or holds a password.
    StoreUnreachableError
        If there is no server, or it refuses the password.
    StoreClosedError
        If the session to join has ended.
    """

    def __init__(self, url: str, session: str | None = None, lease: float = LEASE) -> None:
        _check_password(url)
        self._session = RedisSession(url, session, lease)

    @classmethod
    def from_url(cls, url: StoreURL) -> RedisConnector:
        """Return the connector that ``redis://host:port/db?timeout=10&lease=60#session`` names."""
        url.check_options(frozenset({"timeout", "lease"}))
        try:
            lease = float(url.options.get("lease", LEASE))
        except ValueError as error:
            raise ConfigError(f"option lease of store URL {url} is no number") from error
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
            raise ConfigError(f"{url} names no session")
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

    def new_key(self, obj: Buffer | None = None) -> RedisKey:
        """Return a key under which nothing is stored yet; `obj` is not looked at."""
        return RedisKey(self.session, new_name(14))

    def put(self, obj: Buffer) -> RedisKey:
        """Store an object and return its key.

        Raises
        ------
        StoreFullError
            If the server has reached its ``maxmemory``; nothing is left behind.
        StoreClosedError
            If the session has ended.
        """
        return self.put_frames([obj])

    def put_frames(self, frames: Sequence[Buffer]) -> RedisKey:
        """Store the pieces as one object, without joining them, and return its key."""
        key = self.new_key()
        self._write({key: flat(frames)})
        return key

    def put_batch(self, objs: Sequence[Buffer]) -> list[RedisKey]:
        """Store several objects, small ones in one round trip; all of them or none."""
        objects = {self.new_key(): flat([obj]) for obj in objs}
        self._write(objects)
        return list(objects)

    def set(self, key: RedisKey, obj: Buffer) -> None:
        """Store an object under a key made by `new_key`, replacing one that is there."""
        self.set_frames(key, [obj])

    def set_frames(self, key: RedisKey, frames: Sequence[Buffer]) -> None:
        """Store the pieces as one object under a key, and tell those who wait for it."""
        self._locate(key)
        field = object_field(key)
        replaced, *_ = self._write(
            {key: flat(frames)},
            before=[[b"EVAL", HEAD, 1, hash_of(key.session), field]],
            after=[[b"PUBLISH", _channel(key), b"set"]],
        )
        old = Head.read(replaced)
        if old is not None:
            self._remove(key, old.parts(key))

    def _write(
        self,
        objects: dict[RedisKey, list[memoryview]],
        before: Sequence[Command] = (),
        after: Sequence[Command] = (),
    ) -> list[Any]:
        """Write objects, with other commands before and after they become visible."""
        heads = {
            key: Head.new(sum(piece.nbytes for piece in pieces)) for key, pieces in objects.items()
        }
        last = next(iter(objects), None)
        try:
            commands = [*before, *(self._store(k, heads[k], p) for k, p in objects.items()), *after]
            # Whether the sessions are there is asked last: writing would make them anew.
            sessions = {key.session: key for key in objects}
            commands += [[b"HEXISTS", hash_of(name), b"owner"] for name in sessions]
            replies = self._session.exchange(commands, last) if objects else []
        except BaseException:
            self._give_up(heads)
            raise
        for key, there in zip(reversed(sessions.values()), reversed(replies), strict=False):
            if not there:
                self._session.exchange([[b"UNLINK", hash_of(key.session)]])
                raise self._session.ended(key)
        return replies

    def _store(self, key: RedisKey, head: Head, pieces: list[memoryview]) -> Command:
        """Write the parts of an object, if it has any; return the command that shows it."""
        hash_ = hash_of(key.session)
        fields = head.parts(key)
        parts = zip(fields, cut(pieces), strict=False)
        while some := list(islice(parts, _PARTS_AT_ONCE)):
            self._session.exchange([[b"HSET", hash_, field, part] for field, part in some], key)
        return [b"HSET", hash_, object_field(key), [head.pack(), *([] if fields else pieces)]]

    def _give_up(self, heads: dict[RedisKey, Head]) -> None:
        """Remove what a write that failed has left, if the server can be reached."""
        for key, head in heads.items():
            try:
                self._remove(key, [object_field(key), *head.parts(key)])
            except ConnectionError:
                # Parts without a head: nobody sees them, and they go with the session.
                return

    def _remove(self, key: RedisKey, fields: list[bytes]) -> None:
        for at in range(0, len(fields), _KEYS_AT_ONCE):
            some = fields[at : at + _KEYS_AT_ONCE]
            self._session.exchange([[b"HDEL", hash_of(key.session), *some]], key)

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: RedisKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_fresh(key)

    def get_fresh(self, key: RedisKey) -> memoryview | None:
        """Return the object in memory of the caller's own, or None if it is missing."""
        return self.get_batch([key])[0]

    def get_batch(self, keys: Sequence[RedisKey]) -> list[memoryview | None]:
        """Return several objects, small ones in one round trip; None for each missing one."""
        for key in keys:
            self._locate(key)
        commands: list[Command] = [
            [b"HGET", hash_of(key.session), object_field(key)] for key in keys
        ]
        with translated(self._session.url, keys[0] if keys else None):
            found = self._session.client.fetch(commands, under_way=_SMALL_REPLIES_UNDER_WAY)
        return [self._object(key, data) for key, data in zip(keys, found, strict=True)]

    def _object(self, key: RedisKey, data: Any) -> memoryview | None:
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

    def _read_parts(self, key: RedisKey, head: Head) -> memoryview | None:
        whole = new_memory(head.nbytes)
        targets = [whole[at : at + PART] for at in range(0, head.nbytes, PART)]
        commands: list[Command] = [
            [b"HGET", hash_of(key.session), field] for field in head.parts(key)
        ]
        with translated(self._session.url, key):
            replies = self._session.client.fetch(commands, targets)
        if None in replies:
            # Removed or replaced in the meantime.
            return self.get_fresh(key) if self.exists(key) else None
        if any(reply != target.nbytes for reply, target in zip(replies, targets, strict=True)):
            raise self._damaged(key)
        return whole

    def _damaged(self, key: RedisKey) -> CorruptObjectError:
        return CorruptObjectError(
            "something else has written to this object's fields", store=self._session.url, key=key
        )

    def exists(self, key: RedisKey) -> bool:
        """Return whether an object is stored under the key."""
        self._locate(key)
        asked: Command = [b"HEXISTS", hash_of(key.session), object_field(key)]
        return bool(self._session.exchange([asked], key)[0])

    def wait(self, key: RedisKey, timeout: float | None = None) -> bool:
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

    def evict(self, key: RedisKey) -> None:
        """Remove the object; removing a missing one is no error."""
        self._locate(key)
        script: Command = [b"EVAL", EVICT, 1, hash_of(key.session), key.name.encode(), PART]
        self._session.exchange([script], key)

    def scan(self) -> Iterator[StoredObject]:
        """Yield every object of the session, in no order."""
        hash_ = hash_of(self.session)
        fields = [f for f in self._session.exchange([[b"HKEYS", hash_]])[0] if f[:2] == b"o:"]
        for at in range(0, len(fields), _KEYS_AT_ONCE):
            some = fields[at : at + _KEYS_AT_ONCE]
            heads = self._session.exchange([[b"EVAL", HEAD, 1, hash_, field] for field in some])
            for field, data in zip(some, heads, strict=True):
                head = Head.read(data)
                if head is not None:
                    key = RedisKey(self.session, field[2:].decode())
                    yield StoredObject(key, head.nbytes, head.modified)

    def _locate(self, key: RedisKey) -> None:
        self._session.check_open(key)
        check_key(key, self._session.url)


def _channel(key: RedisKey) -> bytes:
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
