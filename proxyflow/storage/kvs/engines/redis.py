"""The engine on a Redis or Valkey server: shared by all hosts that reach it.

A directory is a hash, a small value sits in its entry, a large one in strings beside it, which the
server drops by itself if they are never committed. A commit to directories that are known already
takes one round trip, else two. The server must not evict keys (``maxmemory-policy noeviction``),
and how much of what it holds outlives its end is its own configuration.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from proxyflow.storage.kvs import entries
from proxyflow.storage.kvs.engine import Change, View
from proxyflow.storage.kvs.engines.redis_address import Address
from proxyflow.storage.kvs.engines.redis_client import UNDER_WAY, Client, Subscription
from proxyflow.storage.kvs.engines.redis_scripts import (
    APPLIED,
    APPLY,
    LIST,
    LOOK,
    LOST,
    STALE,
    directory_key,
    part_key,
)
from proxyflow.storage.kvs.engines.resp import Command
from proxyflow.storage.kvs.entries import Directory, Entry, Kind, Value
from proxyflow.storage.kvs.errors import (
    DamagedError,
    KVSError,
    StorageFullError,
    UnsupportedError,
)
from proxyflow.storage.kvs.keys import Names
from proxyflow.storage.kvs.overlay import Overlay, Parts

__all__ = ["RedisEngine"]

T = TypeVar("T")

# A server that puts a large reply together takes several times as long as for small ones, and none
# takes more than 512 MB.
PART_BYTES = 1024 * 1024

# Replies up to this size are asked for by the dozen.
SMALL_BYTES = 64 * 1024
SMALL_UNDER_WAY = 64

# Parts of a value are sent before the commit that makes them reachable. If that never comes, the
# server forgets them after this time.
UPLOAD_SECONDS = 3600

# Directories remembered, to spare a writer the look at them.
MAX_KNOWN = 4096

# A directory and a name in it.
_Place = tuple[bytes, bytes]

# What was stored in a place when it was looked at.
_Seen = dict[_Place, bytes | None]


class _StaleError(Exception):
    """What was seen earlier has changed; everything has to be looked at again."""


class _View:
    """Entries as they were seen, all of the same moment: the last look."""

    def __init__(self, client: Client, known: _Seen) -> None:
        self._client = client
        self._known = known
        self.seen: _Seen = {}

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        unseen: dict[tuple[bytes, Names], None] = {}
        for path in paths:
            rest = self._unseen(directory.identity, path)
            if rest is not None:
                unseen[rest] = None
        if unseen:
            self._look(list(unseen))

    def _unseen(self, here: bytes, path: Names) -> tuple[bytes, Names] | None:
        """Return from where on a path has not been seen, ``None`` if all of it has."""
        for at, name in enumerate(path):
            place = (here, name)
            if place not in self.seen:
                if place not in self._known:
                    return here, path[at:]
                self.seen[place] = self._known[place]
            stored = self.seen[place]
            if stored is None or stored[:1] != Kind.DIRECTORY:
                return None
            here = stored[1:]
        return None

    def _look(self, walks: list[tuple[bytes, Names]]) -> None:
        arguments = [*self.checks(), b"%d" % len(walks)]
        for here, path in walks:
            arguments += (here, b"%d" % len(path), *path)
        (chains,) = self._client.exchange([LOOK.call(arguments)])
        if chains == STALE:
            raise _StaleError
        assert isinstance(chains, list)
        for (here, path), chain in zip(walks, chains, strict=True):
            assert isinstance(chain, list)
            for name, stored in zip(path, chain, strict=False):
                assert stored is None or isinstance(stored, bytes)
                self.seen[here, name] = stored
                here = b"" if stored is None else stored[1:]

    def checks(self) -> list[bytes]:
        """Return the arguments by which a script makes sure that nothing seen has changed."""
        arguments = [b"%d" % len(self.seen)]
        for (directory, name), stored in self.seen.items():
            arguments += [directory, name, stored or b""]
        return arguments

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        place = (directory.identity, name)
        if place not in self.seen:
            self.prefetch(directory, [(name,)])
        stored = self.seen[place]
        return None if stored is None else entries.decode(stored)

    def children(self, directory: Directory) -> list[tuple[bytes, Kind]]:
        (found,) = self._client.exchange([LIST.call([*self.checks(), directory.identity])])
        if found == STALE:
            raise _StaleError
        assert isinstance(found, list)
        names, kinds = found[::2], found[1::2]
        return sorted(
            (
                (name, entries.kind_of(kind))
                for name, kind in zip(names, kinds, strict=True)
                if isinstance(name, bytes) and isinstance(kind, bytes)
            ),
            key=lambda child: child[0],
        )

    def read(self, values: Sequence[Value]) -> list[bytes]:
        found: list[bytes | io.BytesIO] = []
        commands: list[Command] = []
        targets: list[memoryview] = []
        for value in values:
            if value.inline is not None:
                found.append(value.inline)
                continue
            # Gives out what has been received into it as bytes, without a copy.
            memory = io.BytesIO(bytes(value.size))
            self._fetch(value, 0, memory.getbuffer(), commands, targets)
            found.append(memory)
        self._receive(commands, targets)
        return [data if isinstance(data, bytes) else data.getvalue() for data in found]

    def readinto(self, value: Value, offset: int, target: memoryview) -> None:
        if value.inline is not None:
            target[:] = value.inline[offset : offset + target.nbytes]
            return
        commands: list[Command] = []
        targets: list[memoryview] = []
        self._fetch(value, offset, target, commands, targets)
        self._receive(commands, targets)

    @staticmethod
    def _fetch(
        value: Value,
        offset: int,
        target: memoryview,
        commands: list[Command],
        targets: list[memoryview],
    ) -> None:
        filled = 0
        for number, start, stop in value.ranges(offset, target.nbytes):
            key = part_key(value.identity, number)
            whole = stop - start == value.sizes[number]
            commands.append([b"GET", key] if whole else [b"GETRANGE", key, start, stop - 1])
            targets.append(target[filled : filled + stop - start])
            filled += stop - start

    def _receive(self, commands: list[Command], targets: list[memoryview]) -> None:
        if not commands:
            return
        largest = max(target.nbytes for target in targets)
        under_way = SMALL_UNDER_WAY if largest <= SMALL_BYTES else UNDER_WAY
        replies = self._client.fetch(commands, targets, under_way=under_way)
        if replies == [target.nbytes for target in targets]:
            return
        # Replaced by a commit since it was looked at; or is it still what the entry says?
        self._look([])
        raise DamagedError(
            "a part of the value is missing or cut short",
            store=self._client.url,
            remedy="the server must not evict keys: set maxmemory-policy to noeviction",
        )


class _Reader(_View):
    """A view that first looks where it remembers a directory to be, without a script.

    A directory is held under one name from when it is made until it is removed, and all that is in
    it and below goes in that same step. So one that holds something is where it was.
    """

    def __init__(self, client: Client, known: _Seen) -> None:
        super().__init__(client, {})
        self._remembered = known

    def prefetch(self, directory: Directory, paths: Iterable[Names]) -> None:
        paths = list(paths)
        if self.seen or not self._glance(directory.identity, paths):
            super().prefetch(directory, paths)

    def _glance(self, here: bytes, paths: list[Names]) -> bool:
        """Look into the directory that all paths lead to; tell whether that says all."""
        parents = {path[:-1] for path in paths}
        if len(parents) != 1 or () in paths:
            return False
        seen: _Seen = {}
        for name in parents.pop():
            stored = self._remembered.get((here, name))
            if stored is None:
                return False
            seen[here, name] = stored
            here = stored[1:]
        found = self._held(here, [path[-1] for path in paths])
        if seen and not any(found):
            # Removed, or really without these; a root is always there.
            return False
        for path, stored in zip(paths, found, strict=True):
            seen[here, path[-1]] = stored
        self.seen = seen
        return True

    def _held(self, here: bytes, names: list[bytes]) -> Sequence[Any]:
        key = directory_key(here)
        if len(names) == 1:
            return self._client.exchange([[b"HGET", key, names[0]]])
        (found,) = self._client.exchange([[b"HMGET", key, *names]])
        assert isinstance(found, list)
        return found


class _Change(_View):
    """A view with changes on top, sent in one go at the end."""

    part_bytes = PART_BYTES

    def __init__(self, client: Client, known: _Seen) -> None:
        super().__init__(client, known)
        self.overlay = Overlay(super().entry)

    def entry(self, directory: Directory, name: bytes) -> Entry | None:
        return self.overlay.entry(directory, name)

    def link(self, directory: Directory, name: bytes, entry: Entry, parts: Parts = ()) -> None:
        self.overlay.link(directory, name, entry, parts)

    def remove(self, directory: Directory, name: bytes) -> None:
        self.overlay.remove(directory, name)

    def made(self) -> _Seen:
        """Return where directories have been put, or something has been removed."""
        return {
            (directory.identity, name): None if entry is None else entries.encode(entry)
            for directory, staged in self.overlay.changes()
            for name, entry in staged.items()
            if entry is None or isinstance(entry, Directory)
        }

    def apply(self, channel: bytes) -> None:
        """Make the changes, all or none; _StaleError if something seen has changed."""
        uploads: list[Command] = []
        keys: list[bytes] = []
        for identity, parts in self.overlay.parts():
            for number, part in enumerate(parts):
                keys.append(part_key(identity, number))
                uploads.append([b"SET", keys[-1], part, b"EX", UPLOAD_SECONDS])
        changes = list(self.overlay.changes())
        arguments = [*self.checks(), b"%d" % len(keys), *keys, b"%d" % len(changes)]
        for directory, staged in changes:
            removed: list[bytes] = []
            put: list[bytes] = []
            for name, entry in staged.items():
                if entry is None:
                    removed.append(name)
                else:
                    put += (name, entries.encode(entry))
            arguments += (directory.identity, b"%d" % len(removed), *removed)
            arguments += (b"%d" % (len(put) // 2), *put)
        commands = [*uploads, APPLY.call([*arguments, channel])]
        answer = self._client.exchange(commands, repeatable=False)[-1]
        if answer == STALE:
            raise _StaleError
        if answer == LOST:
            raise StorageFullError(
                "the server dropped parts of the value before the commit", store=self._client.url
            )
        assert answer == APPLIED


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
        self._known: _Seen = {}
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
        view = _Reader(self._client, self._known)
        result = look(view)
        self._remember(view.seen)
        return result

    def write(self, change: Callable[[Change], T], namespace: str, *, durable: bool) -> T:
        """Apply what `change` does; durable if the server writes each command to its log."""
        if durable:
            self._require_log()
        return self._repeat(lambda attempt: self._attempt(change, namespace, attempt == 0))

    def _attempt(self, change: Callable[[Change], T], namespace: str, trusting: bool) -> T:
        writer = _Change(self._client, self._known if trusting else {})
        try:
            result = change(writer)
        except KVSError:
            # It may be an error about what was remembered rather than about what is.
            if trusting and self._known:
                raise _StaleError from None
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
            except _StaleError:
                self.dropcache()
            number += 1
            if time.monotonic() > deadline:
                raise KVSError(f"other writers came first {number} times in a row", store=self.url)
            # The more writers meet, the further apart they try again.
            time.sleep(random.random() * min(0.0005 * number, 0.02))

    def _remember(self, seen: _Seen) -> None:
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
