"""The engine on a Redis or Valkey server: shared by all hosts that reach it.

A directory is a hash, a small value sits in its entry, a large one in strings beside it, which the
server drops by itself if they are never committed. A commit to directories that are known already
takes one round trip, else two; reading there is one plain command. The server must not evict keys
(``maxmemory-policy noeviction``), and how much of what it holds outlives its end is its own
configuration.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from proxyflow.storage.kvs.engine import Change, View
from proxyflow.storage.kvs.engines.redis_address import Address
from proxyflow.storage.kvs.engines.redis_client import Client, Subscription
from proxyflow.storage.kvs.engines.redis_views import ReadingView, Seen, StaleError, WritingView
from proxyflow.storage.kvs.entries import Kind
from proxyflow.storage.kvs.errors import KVSError, UnsupportedError

__all__ = ["RedisEngine"]

T = TypeVar("T")

# Directories remembered, to spare a writer the look at them, and a reader a script.
MAX_KNOWN = 4096


class _Watcher:
    """Wakes for the commits to a namespace."""

    def __init__(self, client: Client, channel: bytes) -> None:
        self._subscription = Subscription(client, channel)
        self._alive_seconds = client.address.timeout

    def wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            slice_seconds = (
                self._alive_seconds if remaining is None else min(remaining, self._alive_seconds)
            )
            if self._subscription.wait(slice_seconds):
                return True
            if remaining is not None and remaining <= slice_seconds:
                return False
            # A server that vanished without a word would be waited for in vain.
            self._subscription.ping()

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._subscription.close()


class RedisEngine:
    """The tree on a server.

    Parameters
    ----------
    url
        See `proxyflow.storage.kvs.open`.
    """

    def __init__(self, url: str) -> None:
        address = Address.parse(url)
        self.url = address.url
        # Channels are shared by all databases of a server.
        self._channels = b"kvs:c:%d:" % address.database
        self._client = Client(address)
        self._known: Seen = {}
        # An error in reaching the server is one of `open`, not of the first call.
        try:
            self._client.exchange([[b"PING"]])
        except BaseException:
            self._client.close()
            raise

    def read(self, look: Callable[[View], T]) -> T:
        """Return what `look` makes of a picture that was whole at one moment."""
        return self._repeat(lambda _: self._look(look))

    def _look(self, look: Callable[[View], T]) -> T:
        view = ReadingView(self._client, self._known)
        result = look(view)
        self._remember(view.seen)
        return result

    def write(self, change: Callable[[Change], T], namespace: str, *, durable: bool) -> T:
        """Apply what `change` does; durable if the server writes each command to its log."""
        if durable:
            self._require_log()
        return self._repeat(lambda attempt: self._attempt(change, namespace, attempt == 0))

    def _attempt(self, change: Callable[[Change], T], namespace: str, trusting: bool) -> T:
        writer = WritingView(self._client, self._known if trusting else {})
        try:
            result = change(writer)
        except KVSError:
            # It may be an error about what was remembered rather than about what is.
            if trusting and self._known:
                raise StaleError from None
            raise
        if not writer.overlay.is_empty():
            writer.apply(self._channel(namespace))
            self._remember({**writer.seen, **writer.made()})
        return result

    def _repeat(self, attempt: Callable[[int], T]) -> T:
        """Try until no other writer came in between; one of them always succeeds."""
        deadline = time.monotonic() + self._client.address.timeout
        number = 0
        while True:
            try:
                return attempt(number)
            except StaleError:
                self.dropcache()
            number += 1
            if time.monotonic() > deadline:
                raise KVSError(f"other writers came first {number} times in a row", store=self.url)
            # The more writers meet, the further apart they try again.
            time.sleep(random.random() * min(0.0005 * number, 0.02))

    def _remember(self, seen: Seen) -> None:
        """Keep which directories are where, and forget those in whose place is something else."""
        news = {}
        for place, stored in seen.items():
            directory = stored if stored is not None and stored[:1] == Kind.DIRECTORY else None
            if self._known.get(place) != directory:
                news[place] = directory
        if news:
            known = self._known if len(self._known) < MAX_KNOWN else {}
            # Replaced as a whole: other threads are reading the old one.
            self._known = {
                place: stored for place, stored in {**known, **news}.items() if stored is not None
            }

    def _require_log(self) -> None:
        (info,) = self._client.exchange([[b"INFO", b"persistence"]])
        (setting,) = self._client.exchange([[b"CONFIG", b"GET", b"appendfsync"]])
        assert isinstance(info, bytes)
        assert isinstance(setting, list)
        if b"aof_enabled:1" not in info or b"always" not in setting:
            raise UnsupportedError(
                "this server does not put each command on disk, so a commit cannot be durable",
                store=self.url,
                remedy="set appendonly yes and appendfsync always, or commit without SYNC",
            )

    def _channel(self, namespace: str) -> bytes:
        return self._channels + namespace.encode("utf-8", "surrogateescape")

    def watch(self, namespace: str) -> _Watcher:
        """Return a watcher with a connection of its own."""
        return _Watcher(self._client, self._channel(namespace))

    def dropcache(self) -> None:
        """Forget the directories that were remembered."""
        self._known = {}

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
