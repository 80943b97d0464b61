"""A session in a Redis server: there for as long as somebody renews its expiry."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from proxyflow.connectors.kvserrors import translated
from proxyflow.connectors.redislayout import END, PREFIX, RENEW, hash_of
from proxyflow.connectors.session import SESSION_NAME, new_name
from proxyflow.connectors.sessionkey import SessionKey
from proxyflow.errors import ProxyflowError, StoreClosedError
from proxyflow.periodic import Periodic
from proxyflow.storage.kvs.engines.redis_address import Address
from proxyflow.storage.kvs.engines.redis_client import Client
from proxyflow.storage.kvs.engines.resp import Command

__all__ = ["LEASE", "RedisSession"]

LEASE = 60.0
"""Seconds after which what an owner left that does not renew it is gone."""

# How often in that time it is renewed.
_RENEWALS = 4
_KEYS_AT_ONCE = 1000
_HASHES = PREFIX + b"?" * 10


class RedisSession:
    """A session, owned or joined, and the connections to its server.

    Parameters
    ----------
    url
        The server, without a password.
    name
        The session to join; None begins one.
    lease
        Seconds that it lasts when nobody renews it.

    Raises
    ------
    StoreUnreachableError
        If there is no server, or it refuses the password.
    StoreClosedError
        If the session to join has ended.
    """

    def __init__(self, url: str, name: str | None, lease: float) -> None:
        if name is not None and not SESSION_NAME.fullmatch(name):
            # Not shown: it may be the rest of a password that was not quoted.
            raise StoreClosedError(
                "what follows the # is not the name of a session",
                store=url,
                remedy="in a password, quote characters such as / and #",
            )
        self.url = url
        self.lease = lease
        self.name = name or new_name(10)
        self.closed = False
        with translated(url):
            self.client = Client(Address.parse(url))
        # The process in which this object keeps the session alive, if it does.
        self._holder = 0
        try:
            if name is None:
                self._begin()
            else:
                self.check()
        except BaseException:
            self.client.close()
            raise

    @property
    def owner(self) -> bool:
        """Whether this object keeps the session alive; never true in a forked child."""
        return self._holder == os.getpid()

    def exchange(
        self,
        commands: Sequence[Command],
        key: SessionKey | None = None,
        *,
        repeatable: bool = True,
    ) -> list[Any]:
        """Send commands in one go and return their replies.

        Parameters
        ----------
        commands
            What to send.
        key
            The object it is about.
        repeatable
            Whether it does no harm if the server carries them out twice.

        Raises
        ------
        StoreClosedError, StoreFullError, StoreUnreachableError
            Naming the store and the key.
        """
        self.check_open(key)
        with translated(self.url, key):
            return list(self.client.exchange(commands, repeatable=repeatable))

    def check_open(self, key: SessionKey | None = None) -> None:
        """Raise StoreClosedError if this object has been closed."""
        if self.closed:
            raise StoreClosedError("the store has been closed", store=self.url, key=key)

    def check(self, key: SessionKey | None = None) -> None:
        """Raise StoreClosedError if the session, or that of a key, has ended."""
        name = self.name if key is None else key.session
        if not self.exchange([[b"HEXISTS", hash_of(name), b"owner"]], key)[0]:
            raise self.ended(key)

    def ended(self, key: SessionKey | None = None) -> StoreClosedError:
        """Return the error of a session that is not there any more."""
        name = self.name if key is None else key.session
        return StoreClosedError(
            f"session {name} has ended, or nobody has renewed it for {self.lease:g} s",
            store=self.url,
            key=key,
            remedy="keep the store open while proxies are in use; for an owner that is stopped "
            "for long, choose a longer lease (redis://...?lease=600)",
        )

    # -- keeping it alive ----------------------------------------------------------------------

    def _begin(self) -> None:
        record = {"host": socket.gethostname(), "pid": os.getpid(), "created": time.time()}
        fields: Command = [b"owner", json.dumps(record).encode(), b"holders", b"1"]
        begun: Command = [b"HSET", hash_of(self.name), *fields]
        self.exchange([begun, [b"PEXPIRE", hash_of(self.name), self.milliseconds]])
        self._keep_alive()

    def hold(self) -> None:
        """Keep the session alive as well; it then ends with the last who does.

        Raises
        ------
        StoreClosedError
            If it has ended.
        """
        hash_ = hash_of(self.name)
        counted: list[Command] = [
            [b"HINCRBY", hash_, b"holders", 1],
            [b"HEXISTS", hash_, b"owner"],
        ]
        if not self.exchange(counted, repeatable=False)[1]:
            # Counting made it anew.
            self.exchange([[b"UNLINK", hash_]])
            raise self.ended()
        self._keep_alive()

    def _keep_alive(self) -> None:
        self._holder = os.getpid()
        _held.add(self)

    def renew(self) -> None:
        """Put off the expiry."""
        self.exchange([[b"EVAL", RENEW, 1, hash_of(self.name), self.milliseconds]])

    @property
    def milliseconds(self) -> int:
        """How long what is written lasts when nobody renews it."""
        return max(1, int(self.lease * 1000))

    @property
    def renewal_interval(self) -> float:
        """Seconds between two renewals."""
        return self.lease / _RENEWALS

    def close(self) -> None:
        """Let go of the session; the last to do so who kept it alive ends it."""
        if self.closed:
            return
        _held.discard(self)
        try:
            if self.owner:
                # Counted twice, it would end what others hold.
                self.exchange([[b"EVAL", END, 1, hash_of(self.name)]], repeatable=False)
        finally:
            self.closed = True
            self.client.close()

    def sweep(self) -> list[str]:
        """Remove sessions that have neither owner nor expiry, and return their names.

        Expiry is the server's work. What it does not see to is a session that was written to in
        the moment it ended, by a process that was killed before it noticed.
        """
        cursor: Any = b"0"
        swept = []
        while True:
            cursor, hashes = self.exchange(
                [[b"SCAN", cursor, b"MATCH", _HASHES, b"COUNT", _KEYS_AT_ONCE]]
            )[0]
            for hash_ in hashes:
                lifetime, owned = self.exchange([[b"PTTL", hash_], [b"HEXISTS", hash_, b"owner"]])
                if lifetime == -1 and not owned:
                    self.exchange([[b"UNLINK", hash_]])
                    swept.append(hash_.removeprefix(PREFIX).decode())
            if cursor == b"0":
                return sorted(swept)


class _Held:
    """The sessions this process keeps alive, renewed while there are any."""

    def __init__(self) -> None:
        self._sessions: WeakSet[RedisSession] = WeakSet()
        # A server that does not answer must not keep the sessions on others from being renewed.
        self._renewals: dict[tuple[str, float], Periodic] = {}
        # They are the parent's.
        os.register_at_fork(after_in_child=self._sessions.clear)

    def add(self, session: RedisSession) -> None:
        self._sessions.add(session)
        server, interval = session.url, session.renewal_interval
        if (server, interval) not in self._renewals:
            self._renewals[server, interval] = Periodic(
                "proxyflow-redis-renewal", interval, lambda: self._renew(server, interval)
            )
        self._renewals[server, interval].ensure_running()

    def discard(self, session: RedisSession) -> None:
        self._sessions.discard(session)

    def _renew(self, server: str, interval: float) -> bool:
        found = [
            each
            for each in list(self._sessions)
            if (each.url, each.renewal_interval) == (server, interval)
        ]
        for session in found:
            try:
                session.renew()
            except ProxyflowError:
                # A server that cannot be reached, or refuses for now (its disk is full, it is about
                # to become a replica), is asked again before the lease is over.
                continue
        return bool(found)


_held = _Held()
